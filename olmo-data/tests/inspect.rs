//! What a run saw at a step, and when it saw a document, over files that the tokenizer wrote.

use std::fmt::Write as _;
use std::path::Path;

use olmo_data::{
    BadRows, BpeTraining, Corpus, DataOrder, DataOrderConfig, Error, GlobalIndices, Inspector,
    InstanceTable, Tail, TokenDataset, TokenDtype, Tokenize, Tokenizer,
};

const SEQ_LEN: usize = 16;
const BATCH: usize = 6;
const SEED: u64 = 6198;

/// Token files of 300 documents with their bounds.
fn tokens(folder: &Path) -> (Tokenizer, Vec<std::path::PathBuf>) {
    let texts = (0..50).map(|i| Ok(format!("document {i} of the corpus\n")));
    let tokenizer = BpeTraining::new(300).train(texts).expect("trained");
    let documents = folder.join("documents.jsonl");
    let mut rows = String::new();
    for i in 0..300 {
        let text = "of the corpus ".repeat(i % 7 + 1);
        writeln!(rows, r#"{{"id": "d{i}", "text": "document {i} {text}"}}"#).expect("text");
    }
    std::fs::write(&documents, rows).expect("written");
    let corpus = Corpus::new([documents], BadRows::Error).expect("a corpus");
    let tokenize = Tokenize::new(&tokenizer).expect("an end").with_max_tokens_per_file(1200);
    let report = tokenize.run(&corpus, folder.join("tokens")).expect("tokenized");
    assert!(report.files.len() > 2);
    (tokenizer, report.files)
}

fn inspector(files: &[std::path::PathBuf]) -> Inspector {
    let table = InstanceTable::open(files.to_vec(), TokenDtype::Uint16, SEQ_LEN).expect("a table");
    Inspector::new(table, BATCH, SEED, 0, Tail::Drop).expect("batches")
}

#[test]
fn a_step_is_the_batch_of_the_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tokenizer, files) = tokens(folder.path());
    let dataset = TokenDataset::open(&files, TokenDtype::Uint16, SEQ_LEN).expect("a dataset");
    let inspector = inspector(&files);
    let per_epoch = inspector.steps_per_epoch();
    assert_eq!(per_epoch, (dataset.len() / BATCH) as u64);
    assert!(inspector.batch(0).expect("a batch").is_empty());
    for step in [1, 2, per_epoch, per_epoch + 1, 2 * per_epoch] {
        let epoch = (step - 1) / per_epoch;
        let config = DataOrderConfig { seed: SEED, epoch, ..Default::default() };
        let order = DataOrder::new(dataset.len(), &config).expect("an order");
        let first = ((step - 1) % per_epoch) as usize * BATCH;
        let expected = &order.global_indices()[first..first + BATCH];
        let batch = inspector.batch(step).expect("a batch");
        assert_eq!(batch, expected);

        for (instance, &index) in
            inspector.describe(&batch, Some(&tokenizer)).expect("described").iter().zip(&batch)
        {
            let location = dataset.locate(index as usize).expect("there");
            assert_eq!(instance.path, location.path.display().to_string());
            assert_eq!(instance.byte_offset, location.byte_offset);
            let text = instance.text.as_deref().expect("text");
            let documents = instance.documents.as_deref().expect("documents");
            // Every end of a document in the text ends one of the documents.
            let n_ends = text.matches("<|endoftext|>").count();
            assert!(documents.len() == n_ends || documents.len() == n_ends + 1, "{text}");
            let start = location.token_offset;
            assert!(documents[0].start <= start && start < documents[0].end);
        }
    }
}

#[test]
fn a_document_is_found_at_the_steps_that_saw_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, files) = tokens(folder.path());
    let inspector = inspector(&files);
    let (mut seen, per_epoch) = (Vec::new(), inspector.steps_per_epoch());
    for step in 1..=2 * per_epoch {
        let batch = inspector.batch(step).expect("a batch");
        for (row, instance) in
            inspector.describe(&batch, None).expect("described").iter().enumerate()
        {
            let documents = instance.documents.iter().flatten();
            if documents.into_iter().any(|document| document.id.as_deref() == Some("d123")) {
                seen.push((step, row, instance.index));
            }
        }
    }
    assert!(!seen.is_empty());
    let found = inspector.find("d123", 2).expect("found");
    let found: Vec<_> = found.iter().map(|s| (s.step, s.row, s.index)).collect();
    assert_eq!(found, seen);
    assert!(inspector.find("no such document", 1).expect("looked").is_empty());

    // The same from the saved order of the first epoch.
    let n_instances = inspector.table().len();
    let config = DataOrderConfig { seed: SEED, ..Default::default() };
    let order = DataOrder::new(n_instances, &config).expect("an order");
    let path = folder.path().join("global_indices.npy");
    order.write_global_indices(&path).expect("written");
    let saved =
        inspector.with_global_indices(GlobalIndices::open(&path).expect("opened")).expect("fits");
    assert_eq!(saved.batch(3).expect("a batch"), &order.global_indices()[2 * BATCH..3 * BATCH]);
    let again: Vec<_> =
        saved.find("d123", 1).expect("found").iter().map(|s| (s.step, s.row, s.index)).collect();
    let first: Vec<_> = seen.into_iter().filter(|&(step, _, _)| step <= per_epoch).collect();
    assert_eq!(again, first);
}

#[test]
fn what_does_not_belong_together_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, files) = tokens(folder.path());
    let path = folder.path().join("global_indices.npy");
    GlobalIndices::write(&path, &[0; 500]).expect("written");
    let wrong = GlobalIndices::open(&path).expect("opened");
    let error = inspector(&files).with_global_indices(wrong).unwrap_err();
    assert!(matches!(&error, Error::OtherOrder { found: 500, .. }), "{error}");

    // Bounds of another file.
    let bounds = olmo_data::DocumentBounds::path_for(&files[0]);
    std::fs::copy(olmo_data::DocumentBounds::path_for(&files[1]), &bounds).expect("copied");
    let error = inspector(&files).find("d0", 1).unwrap_err();
    assert!(matches!(&error, Error::BadRow { path, .. } if *path == bounds), "{error}");

    let table = InstanceTable::open(files, TokenDtype::Uint16, SEQ_LEN).expect("a table");
    let error = Inspector::new(table, 1 << 20, SEED, 0, Tail::Drop).unwrap_err();
    assert!(matches!(error, Error::NoBatches { .. }));
}
