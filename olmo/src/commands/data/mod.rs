//! `olmo data`: text to tokens, and tokens in order.

mod inspect;
mod order;
mod tokenize;
mod train_tokenizer;

use anyhow::Result;
use clap::Subcommand;

/// Prepare and inspect training data
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    Tokenize(tokenize::Tokenize),
    TrainTokenizer(train_tokenizer::TrainTokenizer),
    Order(order::Order),
    Inspect(inspect::Inspect),
}

impl Data {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Tokenize(command) => command.run(),
            Self::TrainTokenizer(command) => command.run(),
            Self::Order(command) => command.run(),
            Self::Inspect(command) => command.run(),
        }
    }
}
