//! The stand-in for the Hugging Face Hub as a program, to try the command on:
//!
//! ```sh
//! cargo run -p olmo-tests --example stand_in -- me/model@main=DIR [--token T] [--xet] \
//!     [--gated me/model] [--private me/model] [--moved me/model=me/new]
//! ```
//!
//! It prints what to set, and serves until it is ended.

#![allow(clippy::print_stdout, reason = "it says where it is")]

use std::error::Error;
use std::fs;

use olmo_tests::stand_in::StandIn;

fn main() -> Result<(), Box<dyn Error>> {
    let hub = StandIn::start();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--token" => hub.set_token(&value()?),
            "--xet" => hub.set_xet(900),
            "--gated" => hub.close(&value()?, true),
            "--private" => hub.close(&value()?, false),
            "--moved" => {
                let value = value()?;
                let (from, to) = value.split_once('=').ok_or("give --moved OLD=NEW")?;
                hub.rename(from, to);
            }
            folder => commit(&hub, folder)?,
        }
    }
    println!("export HF_ENDPOINT={}", hub.endpoint());
    loop {
        std::thread::park();
    }
}

/// Makes a commit of a folder's files, by `OWNER/NAME@BRANCH=DIR`.
fn commit(hub: &StandIn, argument: &str) -> Result<(), Box<dyn Error>> {
    let (repo, dir) = argument.split_once('=').ok_or("give OWNER/NAME@BRANCH=DIR")?;
    let (repo, branch) = repo.split_once('@').unwrap_or((repo, "main"));
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            files.push((name.to_string_lossy().into_owned(), fs::read(&path)?));
        }
    }
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    println!("{repo} at {branch} is commit {}", hub.commit(repo, branch, &files));
    Ok(())
}
