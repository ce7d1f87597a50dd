//! Tokenizing as a whole: what is written, what is refused, what is left behind.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use olmo_data::{
    BadRows, BpeTraining, Corpus, Error, Progress, SpecialTokens, TokenDataset, TokenDtype,
    TokenFile, Tokenize, Tokenizer,
};

fn tokenizer() -> Tokenizer {
    let texts = (0..50).map(|i| Ok(format!("document {i} of the corpus\n")));
    BpeTraining::new(300).train(texts).expect("trained")
}

fn corpus(folder: &Path, n_documents: usize) -> Corpus {
    let path = folder.join("documents.jsonl");
    let mut rows = String::new();
    for i in 0..n_documents {
        writeln!(rows, r#"{{"id": "d{i}", "text": "document {i} of the corpus"}}"#).expect("text");
    }
    std::fs::write(&path, rows).expect("written");
    Corpus::new([path], BadRows::Error).expect("a corpus")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn documents_come_back_in_order_over_many_chunks() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = tokenizer();
    let corpus = corpus(folder.path(), 10_000);
    let mut calls: Vec<Progress> = Vec::new();
    let report = Tokenize::new(&tokenizer)
        .expect("an end-of-text token")
        .run_with(&corpus, folder.path().join("tokens"), &mut |progress| {
            calls.push(progress);
            ControlFlow::Continue(())
        })
        .expect("tokenized");

    let file = TokenFile::open(&report.files[0], report.dtype).expect("tokens");
    let tokens = file.read(0..file.len()).expect("read");
    assert_eq!(report.n_tokens, tokens.len() as u64);
    let text = tokenizer.decode(&tokens, SpecialTokens::Keep).expect("decoded");
    let documents: Vec<&str> = text.split_terminator("<|endoftext|>").collect();
    assert_eq!(documents.len(), 10_000);
    for (i, document) in documents.iter().enumerate() {
        assert_eq!(*document, format!("document {i} of the corpus"));
    }
    assert_eq!(report.n_text_bytes, documents.iter().map(|d| d.len() as u64).sum::<u64>());

    assert!(calls.len() > 1);
    assert!(calls.is_sorted_by_key(|progress| progress.n_documents));
    let last = calls.last().expect("a call");
    assert_eq!((last.n_documents, last.n_tokens), (10_000, report.n_tokens));
    assert_eq!((last.n_bytes_read, last.n_files), (last.n_bytes, 1));
    TokenDataset::open(&report.files, report.dtype, 64).expect("a dataset");
}

#[test]
fn stopping_and_failing_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("tokens");
    let tokenize = Tokenize::new(&tokenizer()).expect("ready").with_max_tokens_per_file(100);
    let whole = corpus(folder.path(), 50);
    let stopped = tokenize.run_with(&whole, &out, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(entries(&out).is_empty());

    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, "{\"text\": \"good\"}\nbad\n").expect("written");
    let paths = [whole.paths()[0].clone(), broken];
    let corpus = Corpus::new(paths, BadRows::Error).expect("a corpus");
    assert!(matches!(tokenize.run(&corpus, &out), Err(Error::BadRow { line: 2, .. })));
    assert!(entries(&out).is_empty());

    let report = tokenize.run(&whole, &out).expect("tokenized");
    assert_eq!(entries(&out).len(), 2 * report.files.len());
    assert!(report.files.len() > 3);
    assert!(matches!(tokenize.run(&whole, &out), Err(Error::OutputExists { .. })));
}

#[test]
fn a_document_longer_than_a_file_gets_one_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenize = Tokenize::new(&tokenizer()).expect("ready").with_max_tokens_per_file(2);
    let corpus = corpus(folder.path(), 3);
    let report = tokenize.run(&corpus, folder.path().join("tokens")).expect("tokenized");
    assert_eq!(report.files.len(), 3);
}

#[test]
fn a_corpus_without_text_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("blank.jsonl");
    std::fs::write(&path, "{\"text\": \" \\n\\u001c\"}\n{\"text\": \"\"}\n").expect("written");
    let corpus = Corpus::new([path], BadRows::Error).expect("a corpus");
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    let error = tokenize.run(&corpus, folder.path().join("tokens"));
    assert!(matches!(error, Err(Error::EmptyCorpus { n_documents: 2 })));
}

#[test]
fn types_are_checked_against_the_vocabulary() {
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    assert_eq!(tokenize.dtype(), TokenDtype::Uint16);
    let error = tokenize.clone().with_dtype(TokenDtype::Uint8).expect_err("299 does not fit");
    assert!(error.to_string().contains("use uint16"), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    for dtype in [TokenDtype::Uint32, TokenDtype::Uint64] {
        let out = folder.path().join(dtype.name());
        let tokenize = tokenize.clone().with_dtype(dtype).expect("wide enough");
        let report = tokenize.run(&corpus(folder.path(), 3), out).expect("tokenized");
        let file = TokenFile::open(&report.files[0], dtype).expect("tokens");
        assert_eq!(file.len() as u64, report.n_tokens);
        assert_eq!(file.read(file.len() - 1..file.len()).expect("read"), [0]);
    }
    assert!(matches!(
        Tokenize::with_eos_id(&tokenizer(), 300),
        Err(Error::UnknownTokenId { id: 300, .. })
    ));
}

#[cfg(unix)]
#[test]
fn written_files_are_readable_by_others() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").expect("written");
    let expected = std::fs::metadata(&plain).expect("there").permissions().mode();
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    let out = folder.path().join("tokens");
    tokenize.run(&corpus(folder.path(), 3), &out).expect("tokenized");
    for path in entries(&out) {
        assert_eq!(std::fs::metadata(path).expect("there").permissions().mode(), expected);
    }
}
