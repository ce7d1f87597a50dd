//! The `olmo` command: parse, call a library, print.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 where all
//! went well, 1 where the machine failed (disk, memory, numbers), 2 where the input is wrong.

mod allocator;
mod cli;
mod commands;
mod device;
mod failure;
mod input;
mod interrupt;
mod memory;
mod output;
mod page;
mod program_pages;
mod progress;
mod sampling;
mod weights;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::keep_large_buffers();
    match cli::Cli::of_the_process().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
