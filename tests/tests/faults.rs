//! Saving on a full disk.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use olmo_hub::{Dtype, HfExport, ModelFolder, Special};
use olmo_model::{InitConfig, Transformer, presets};
use olmo_tests::weights;

/// A file system of two megabytes, where we may mount one.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = std::ffi::CString::new(folder.path().to_str()?).ok()?;
        // SAFETY: every pointer is to a C string that outlives the call.
        let status = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"size=2m".as_ptr().cast(),
            )
        };
        (status == 0).then_some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(Ok(target)) = self.path().to_str().map(std::ffi::CString::new) {
            // SAFETY: the pointer is to a C string that outlives the call.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_old_checkpoint_still_loads() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a_full_disk_is_an_error, because mounting a tmpfs needs privileges");
        return;
    };
    let device = Device::flex();
    // 1.1 MB in f32: the first fits the disk, the second does not fit beside it.
    let config = presets::small_olmo(64, 4, 4, 512);
    let model = |seed| {
        Transformer::init(&config, &InitConfig::default(), seed, &device).expect("a sound config")
    };
    let export = HfExport::new(Special::default(), Dtype::F32);
    let save = |model: &Transformer, dir: &Path| {
        olmo_hub::write_dir_atomic(dir, |dir| olmo_hub::save(model, &export, dir))
    };
    let (first, second) = (model(1), model(2));
    save(&first, &disk.path().join("step1")).expect("fits");

    let error = save(&second, &disk.path().join("step2")).expect_err("does not fit").to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(error.to_lowercase().contains("space"), "{error}");
    let left: Vec<_> = fs::read_dir(disk.path())
        .expect("there")
        .map(|entry| entry.expect("listed").file_name())
        .collect();
    assert_eq!(left, ["step1"], "nothing of the failed save is left");

    // The same over the old folder: it stays as it was.
    save(&second, &disk.path().join("step1")).expect_err("does not fit");
    let folder = ModelFolder::open(disk.path().join("step1")).expect("whole");
    let loaded = folder.load(&device, None).expect("whole");
    assert_eq!(weights(&loaded), weights(&first));
}
