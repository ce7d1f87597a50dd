//! Folders that were made to harm: each is refused by name, at once and in little memory.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod allocations;
mod fixtures;

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use olmo_hub::{ModelFolder, verify};

use allocations::peak_of;
use fixtures::copy;

/// Lets one test go on at a time, for bytes are counted of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said of a folder, which is told without much memory, whatever the folder says.
fn refused(dir: &Path) -> String {
    let (opened, peak) = peak_of(|| ModelFolder::open(dir));
    let message = opened.unwrap_err().to_string();
    assert!(peak < 80 << 20, "{peak} bytes to say: {message:.1000}");
    let (verified, peak) = peak_of(|| verify(dir, |_| ()));
    assert!(verified.is_err() || !verified.unwrap().problems.is_empty());
    assert!(peak < 80 << 20, "{peak} bytes to say: {message:.1000}");
    message
}

/// A file of some bytes at its beginning and some at its end, that takes no room between them.
fn write_sparse(path: &Path, begin: &[u8], n_bytes: u64, end: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(begin).unwrap();
    file.set_len(n_bytes).unwrap();
    file.seek(SeekFrom::End(-(end.len() as i64))).unwrap();
    file.write_all(end).unwrap();
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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

#[test]
fn headers_of_safetensors_that_claim_too_much_are_refused() {
    let _alone = alone();
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let path = dir.join("model.safetensors");
    let entry = |name: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"U8","shape":[2],"data_offsets":[{begin},{end}]}}"#)
    };
    let with_header = |header: &str| {
        fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())
            .unwrap();
        refused(&dir)
    };
    // A terabyte, with and without a file as long.
    for n_bytes in [1000, (1 << 40) + 8] {
        write_sparse(&path, &(1_u64 << 40).to_le_bytes(), n_bytes, b"");
        let error = refused(&dir);
        assert!(
            error.contains("model.safetensors: its header would have 1099511627776"),
            "{error}"
        );
    }
    write_sparse(&path, &(1_u64 << 24).to_le_bytes(), 1 << 40, b"");
    assert!(refused(&dir).contains("not the JSON"), "{}", refused(&dir));
    let error = with_header(&format!("{{{},{}}}", entry("a", 0, 2), entry("b", 1, 3)));
    assert!(error.contains("b begins at byte 1 of the data, expected 2"), "{error}");
    // As many tensors as a header can have, all at one place.
    let mut many: Vec<String> = (0..220_000).map(|i| entry(&i.to_string(), 0, 2)).collect();
    let error = with_header(&format!("{{{}}}", many.join(",")));
    assert!(error.contains("begins at byte 0"), "{error:.1000}");
    many.truncate(100_000);
    let long = "x".repeat(8_000_000);
    let error = with_header(&format!("{{{},{}}}", many.join(","), entry(&long, 0, 2)));
    assert!(error.contains("begins at byte 0"), "{error:.1000}");
}

#[test]
fn an_index_that_leaves_the_folder_is_refused() {
    let _alone = alone();
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("outside.safetensors");
    fs::rename(dir.join("model.safetensors"), &outside).unwrap();
    let name = elsewhere.path().file_name().unwrap().to_str().unwrap();
    let upwards = format!("../{name}/outside.safetensors");
    let index = dir.join("model.safetensors.index.json");
    assert!(dir.join(&upwards).exists());
    for file in [&upwards, outside.to_str().unwrap(), &format!("a/../{upwards}")] {
        let text = format!(r#"{{"weight_map":{{"model.norm.weight":"{file}"}}}}"#);
        fs::write(&index, text).unwrap();
        let error = refused(&dir);
        assert!(error.contains(&format!("{file:?}")), "{error}");
    }
}

#[test]
fn files_that_are_too_long_are_refused() {
    let _alone = alone();
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let index = dir.join("model.safetensors.index.json");
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    write_sparse(&index, b"{", 1 << 40, b"}");
    assert!(refused(&dir).contains("index.json: it has more than 16777216"), "{}", refused(&dir));
    for name in ["generation_config.json", "config.json"] {
        write_sparse(&dir.join(name), b"{", 1 << 40, b"}");
        let error = refused(&dir);
        assert!(error.contains(&format!("{name}: it has more than 16777216 bytes")), "{error}");
    }
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-pt") else { return };
    write_sparse(&dir.join("config.yaml"), b"model:", 1 << 40, b"");
    assert!(refused(&dir).contains("config.yaml: it has more"), "{}", refused(&dir));
}

#[test]
fn pickles_that_grow_are_refused() {
    let _alone = alone();
    let Some((_scratch, dir)) = copy("original/olmo2-gqa-pt") else { return };
    let with_pickle = |part: &[u8]| {
        let n_parts = ((1 << 22) - 8) / part.len();
        let pickle = [&b"\x80\x02]q\0"[..], &part.repeat(n_parts), b"."].concat();
        fs::write(dir.join("model.pt"), archive(&[("model/data.pkl", &pickle)])).unwrap();
        refused(&dir)
    };
    for (part, expected) in [
        (&b"("[..], "marks"),
        (b"N", "values"),
        (b"]", "values"),
        (b"h\0", "values"),
        (b"\x94", "values"),
        (b"h\0a", "model.pt"),
        (b"h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0(", "marks"),
        (b"]]a0", "values"),
        (b"\x8C\x01", "UTF-8"),
    ] {
        let error = with_pickle(part);
        assert!(error.contains(expected), "{part:?}: {error:.1000}");
    }
    // Four gigabytes that the archive does hold.
    let list = archive(&[("model/data.pkl", b"")]);
    let list = &list[44..];
    let mut list = list.to_vec();
    let n_bytes = u32::MAX - 4096;
    for at in [20, 24] {
        list[at..at + 4].copy_from_slice(&n_bytes.to_le_bytes());
    }
    let begin = archive(&[("model/data.pkl", b"")])[..44].to_vec();
    let end = list.len() - 6;
    list[end..end + 4].copy_from_slice(&(44 + n_bytes).to_le_bytes());
    let length = 44 + u64::from(n_bytes) + list.len() as u64;
    write_sparse(&dir.join("model.pt"), &begin, length, &list);
    let error = refused(&dir);
    assert!(error.contains("data.pkl has 4294963199 bytes, expected at most 4194304"), "{error}");
}

#[test]
fn a_configuration_of_a_model_that_fits_nowhere_is_refused() {
    let _alone = alone();
    let Some((_scratch, dir)) = copy("hf/olmo2") else { return };
    let path = dir.join("config.json");
    let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in [
        ("num_hidden_layers", 4_000_000_000_u64),
        ("num_hidden_layers", 8_000_000),
        ("vocab_size", 1 << 60),
        ("hidden_size", 1 << 62),
        ("intermediate_size", 1 << 62),
    ] {
        let mut config = config.clone();
        config[field] = value.into();
        fs::write(&path, config.to_string()).unwrap();
        assert!(refused(&dir).contains(field), "{field}: {}", refused(&dir));
    }
}
