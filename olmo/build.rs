//! Embeds the project's own sources and documents, compressed: the quickstart's corpus.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, io};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What counts as a source or a document.
const EXTENSIONS: [&str; 5] = ["rs", "md", "py", "toml", "yaml"];
/// Folders of the workspace that hold them.
const FOLDERS: [&str; 12] = [
    "olmo",
    "olmo-data",
    "olmo-eval",
    "olmo-hub",
    "olmo-model",
    "olmo-optim",
    "olmo-train",
    "tests/src",
    "tests/tests",
    "examples",
    "scripts",
    "benchmarks",
];

fn main() -> Result<(), Box<dyn Error>> {
    let crate_folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = crate_folder.parent().unwrap_or(&crate_folder);
    // Built from a registry, the crate stands alone, and its own files have to do.
    let root = if workspace.join("olmo-model/src").is_dir() { workspace } else { &crate_folder };
    let mut files = Vec::new();
    for folder in FOLDERS.iter().map(|name| root.join(name)).filter(|path| path.is_dir()) {
        collect(&folder, &mut files)?;
    }
    if files.is_empty() {
        collect(&root.join("src"), &mut files)?;
    }
    collect_here(root, &mut files)?;
    files.sort();
    let out = PathBuf::from(env::var("OUT_DIR")?).join("corpus.jsonl.gz");
    let mut encoder = GzEncoder::new(File::create(out)?, Compression::best());
    for path in files {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path)?;
        let line = serde_json::json!({ "id": name, "source": "olmo", "text": text });
        writeln!(encoder, "{line}")?;
    }
    encoder.finish()?.sync_all()?;
    Ok(())
}

/// The files of a folder and of those in it. A folder counts as changed when a file comes or goes.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden && !path.ends_with("target") {
            collect(&path, files)?;
        }
    }
    collect_here(folder, files)
}

/// The files of a folder itself.
fn collect_here(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && extension.is_some_and(|known| EXTENSIONS.contains(&known)) {
            files.push(path);
        }
    }
    Ok(())
}
