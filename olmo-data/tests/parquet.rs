//! Documents from Parquet files, beside the same documents as JSONL.
//!
//! The files are pyarrow's, made by `scripts/golden/parquet_documents.py`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use olmo_data::{BadRows, BpeTraining, Corpus, Document, Error, Result, Tokenize};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    same: Vec<String>,
    refused: BTreeMap<String, String>,
    empty: String,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/parquet").join(name)
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(golden("cases.json")).expect("vectors")).expect("cases")
}

fn read(path: &Path) -> Result<Vec<Document>> {
    Corpus::new([path], BadRows::Error)?.documents().collect()
}

type Fields = (Option<String>, String, Option<String>, u64);

fn fields(documents: Vec<Document>) -> Vec<Fields> {
    documents.into_iter().map(|d| (d.id, d.text, d.source, d.line)).collect()
}

#[test]
fn documents_are_those_of_the_jsonl_whatever_the_encoding() {
    let expected = fields(read(&golden("documents.jsonl")).expect("read"));
    assert_eq!(expected.len(), 150);
    for name in cases().same {
        let mut found = fields(read(&golden(&name)).expect("read"));
        if name == "required.parquet" {
            // It has no column of sources.
            assert!(found.iter().all(|(_, _, source, _)| source.is_none()));
            for (found, expected) in found.iter_mut().zip(&expected) {
                found.2.clone_from(&expected.2);
            }
        }
        assert_eq!(found, expected, "{name}");
    }
    assert!(read(&golden(&cases().empty)).expect("read").is_empty());
}

#[test]
fn tokens_and_bounds_are_those_of_the_jsonl() {
    let texts = (0..50).map(|i| Ok(format!("the river runs north past mill {i}\n")));
    let tokenizer = BpeTraining::new(300).train(texts).expect("trained");
    let folder = tempfile::tempdir().expect("a folder");
    let tokenize = |name: &str| {
        let corpus = Corpus::new([golden(name)], BadRows::Error).expect("a corpus");
        let out = folder.path().join(name);
        let report = Tokenize::new(&tokenizer).expect("ready").run(&corpus, out).expect("run");
        let packed = std::fs::File::open(report.files[0].with_extension("csv.gz")).expect("bounds");
        let mut bounds = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut bounds).expect("gzip");
        let bounds = bounds.replace(&*golden(name).to_string_lossy(), "FILE");
        (std::fs::read(&report.files[0]).expect("tokens"), bounds, report.n_empty_documents)
    };
    let expected = tokenize("documents.jsonl");
    assert!(expected.0.len() > 2_000 && expected.1.contains("FILE") && expected.2 > 0);
    for name in cases().same {
        assert_eq!(tokenize(&name), expected, "{name}");
    }
}

#[test]
fn bad_rows_are_errors_or_counted() {
    let path = golden("bad_rows.parquet");
    let error = read(&path).expect_err("row 2 has no text").to_string();
    assert!(error.ends_with("bad_rows.parquet:2: the text is missing"), "{error}");
    let corpus = Corpus::new([&path], BadRows::Count).expect("a corpus");
    let mut documents = corpus.documents();
    let lines: Vec<u64> = documents.by_ref().map(|document| document.expect("good").line).collect();
    assert_eq!((lines, documents.n_bad_rows()), (vec![1, 4, 5], 2));
    assert_eq!(documents.n_bytes_read(), corpus.n_bytes());
    let rejected = documents.take_rejected();
    assert_eq!((rejected[0].line, rejected[1].line), (2, 3));
    assert!(rejected[1].reason.contains("the text is not UTF-8"), "{}", rejected[1].reason);
}

#[test]
fn files_without_a_column_of_texts_are_refused_by_name() {
    for (name, reason) in cases().refused {
        let error = read(&golden(&name)).expect_err("no texts").to_string();
        assert!(error.contains(&name) && error.contains(&reason), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in
        [("none.parquet", &b""[..]), ("text.parquet", b"{\"text\": \"no Parquet\"}\n")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let error = read(&path).expect_err("no Parquet");
        assert!(matches!(&error, Error::Parquet { path: named, .. } if *named == path), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut.parquet");
    for name in cases().same {
        let whole = std::fs::read(golden(&name)).expect("read");
        for end in (0..whole.len()).step_by(whole.len() / 12) {
            std::fs::write(&path, &whole[..end]).expect("written");
            let error = read(&path).expect_err("cut").to_string();
            assert!(error.contains("cut.parquet: "), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Some damage is not seen, such as in a text; none may end in anything but an error.
    #[test]
    fn a_damaged_file_is_read_or_refused_by_name(
        case in 0usize..7,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        from_end in any::<bool>(),
    ) {
        let name = &cases().same[case];
        let mut bytes = std::fs::read(golden(name)).expect("read");
        // Half of the time in the last part, where the metadata is.
        let first = if from_end { bytes.len().saturating_sub(1200) } else { 0 };
        for (at, value) in damage {
            let at = first + at.index(bytes.len() - first);
            bytes[at] = value;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("damaged.parquet");
        std::fs::write(&path, bytes).expect("written");
        if let Err(error) = read(&path) {
            prop_assert!(error.to_string().contains("damaged.parquet"), "{}", error);
        }
    }
}
