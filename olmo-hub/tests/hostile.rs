//! Folders that were made to harm: each is refused by name, at once and in little memory.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod fixtures;

use std::fs;
use std::path::Path;

use olmo_hub::ModelFolder;

use fixtures::copy;

fn refused(dir: &Path) -> String {
    ModelFolder::open(dir).unwrap_err().to_string()
}

/// An archive of stored members, as torch lays one out.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut list) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let (at, size) = (bytes.len() as u32, content.len() as u32);
        let sizes = [0, 0, size, size].map(u32::to_le_bytes).concat();
        let name_length = (name.len() as u16).to_le_bytes();
        bytes.extend(b"PK\x03\x04\x14\0\0\0\0\0");
        bytes.extend([&sizes[..], &name_length, &[0, 0], name.as_bytes(), content].concat());
        list.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0");
        list.extend(
            [&sizes[..], &name_length, &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat(),
        );
    }
    let (start, count) = (bytes.len() as u32, (members.len() as u16).to_le_bytes());
    let size = (list.len() as u32).to_le_bytes();
    bytes.extend(list);
    bytes.extend(
        [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &start.to_le_bytes(), &[0, 0]].concat(),
    );
    bytes
}

#[test]
fn a_pickle_that_calls_the_system_is_refused_and_not_run() {
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-pt") else { return };
    let ran = dir.join("ran");
    let shell = format!("touch {}", ran.display());
    let length = (shell.len() as u32).to_le_bytes();
    let pickle = [&b"\x80\x02cposix\nsystem\nX"[..], &length, shell.as_bytes(), b"\x85R."].concat();
    fs::write(dir.join("model.pt"), archive(&[("model/data.pkl", &pickle)])).unwrap();
    let error = refused(&dir);
    assert!(error.contains("model.pt") && error.contains("posix.system"), "{error}");
    assert!(!ran.exists());
    // The same in a key of ai2-olmo's safetensors files: `base64(pickle)`, here of `os.system`.
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-safetensors") else { return };
    let key = "gAJjb3MKc3lzdGVtClgEAAAAdHJ1ZYVSLg==";
    let header = format!(r#"{{"{key}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
    assert!(refused(&dir).contains("os.system"), "{}", refused(&dir));
}

#[test]
fn a_zip_bomb_is_refused() {
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-pt") else { return };
    let bomb = archive(&[("model/data.pkl", b"x"), ("model/data/0", b"y")]);
    let list = bomb.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    // Deflated from ten gigabytes, says the list of members.
    let mut deflated = bomb.clone();
    deflated[list + 10] = 8;
    deflated[list + 24..list + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(dir.join("model.pt"), deflated).unwrap();
    let error = refused(&dir);
    assert!(error.contains("model/data.pkl is compressed"), "{error}");
    // Two members of the same bytes.
    let mut shared = bomb.clone();
    let second = list + 46 + "model/data.pkl".len();
    shared[second + 42..second + 46].copy_from_slice(&0_u32.to_le_bytes());
    fs::write(dir.join("model.pt"), shared).unwrap();
    let error = refused(&dir);
    assert!(error.contains("share bytes"), "{error}");
    fs::write(dir.join("model.pt"), b"PK\x03\x04").unwrap();
    assert!(refused(&dir).contains("no zip archive"), "{}", refused(&dir));
}

#[test]
fn tensors_that_reach_past_their_storage_are_refused() {
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-pt") else { return };
    let path = dir.join("model.pt");
    let whole = fs::read(&path).unwrap();
    // `wte`'s rows, 64 as BININT1, to 255.
    let at = whole.windows(4).position(|window| window == [b'K', 64, b'K', 16]).unwrap();
    let mut longer = whole.clone();
    longer[at + 1] = 255;
    fs::write(&path, &longer).unwrap();
    let error = refused(&dir);
    assert!(error.contains("transformer.wte.weight") && error.contains("does not fit"), "{error}");
    // A column-major matrix: strides (16, 1) to (1, 16).
    let at = whole.windows(4).position(|window| window == [b'K', 16, b'K', 1]).unwrap();
    let mut turned = whole;
    turned[at..at + 4].copy_from_slice(&[b'K', 1, b'K', 16]);
    fs::write(&path, &turned).unwrap();
    assert!(refused(&dir).contains("strides"), "{}", refused(&dir));
}

#[test]
#[cfg(unix)]
fn a_link_out_of_the_folder_is_refused_and_one_into_the_cache_is_not() {
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("secret.safetensors");
    fs::rename(dir.join("model.safetensors"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, dir.join("model.safetensors")).unwrap();
    let error = refused(&dir);
    assert!(error.contains("model.safetensors") && error.contains("link"), "{error}");
    // As `huggingface_hub` lays out its cache.
    let snapshot = elsewhere.path().join("models--a--b/snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    let blobs = elsewhere.path().join("models--a--b/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(dir.join("config.json"), snapshot.join("config.json")).unwrap();
    fs::rename(&outside, blobs.join("abcd")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abcd", snapshot.join("model.safetensors")).unwrap();
    ModelFolder::open(&snapshot).unwrap();
}
