//! Reading documents: formats, bad rows, broken files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_data::{BadRows, Corpus, Document, Error, Result};
use proptest::prelude::*;

const ROWS: &str = concat!(
    r#"{"id": "a", "text": "first", "source": "s", "added": 1}"#,
    "\n\n",
    r#"{"id": 7, "text": "sécond", "source": 3}"#,
    "\r\n",
    r#"{"text": ""}"#,
);

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("works");
    path
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("works");
    encoder.finish().expect("works")
}

fn read(paths: &[PathBuf], bad_rows: BadRows) -> Result<Vec<Document>> {
    Corpus::new(paths, bad_rows)?.documents().collect()
}

#[test]
fn every_compression_gives_the_same_documents() {
    let folder = tempfile::tempdir().expect("works");
    let (first, rest) = ROWS.as_bytes().split_at(30);
    // Several gzip members and zstd frames in one file, as `cat` makes them.
    let members = [gz(first), gz(rest)].concat();
    let frames =
        [zstd::encode_all(first, 1).expect("works"), zstd::encode_all(rest, 1).expect("works")]
            .concat();
    let plain = write(folder.path(), "a.jsonl", ROWS.as_bytes());
    let expected = read(&[plain], BadRows::Error).expect("works");
    let fields: Vec<_> = expected
        .iter()
        .map(|d| (d.id.as_deref(), d.text.as_str(), d.source.as_deref(), d.line))
        .collect();
    assert_eq!(
        fields,
        [(Some("a"), "first", Some("s"), 1), (Some("7"), "sécond", None, 3), (None, "", None, 4)]
    );
    for (name, bytes) in [("b.json.gz", members), ("c.ndjson.zst", frames)] {
        let path = write(folder.path(), name, &bytes);
        let documents = read(std::slice::from_ref(&path), BadRows::Error).expect("works");
        let moved: Vec<Document> = documents
            .into_iter()
            .map(|document| Document { path: Arc::clone(&expected[0].path), ..document })
            .collect();
        assert_eq!(moved, expected, "{name}");
    }
}

#[test]
fn a_text_file_is_one_document() {
    let folder = tempfile::tempdir().expect("works");
    let plain = write(folder.path(), "a.txt", b"two\nlines\n");
    let packed = write(folder.path(), "b.txt.gz", &gz(b"packed"));
    let documents = read(&[plain, packed], BadRows::Error).expect("works");
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    assert_eq!(texts, ["two\nlines\n", "packed"]);
}

#[test]
fn bad_rows_are_errors_or_counted() {
    let folder = tempfile::tempdir().expect("works");
    let rows: &[&[u8]] = &[
        br#"{"id": "a", "text": "good"}"#,
        br#"{"id": "b"}"#,
        br#"{"id": "c", "text": null}"#,
        br#"{"id": "d", "text": "cut"#,
        b"\"{}\"",
        b"{\"text\": \"\xff\"}",
        br#"{"id": "e", "text": "good too"}"#,
    ];
    let path = write(folder.path(), "rows.jsonl", &rows.join(&b'\n'));
    for (i, row) in rows.iter().enumerate().filter(|(i, _)| (1..6).contains(i)) {
        let one = write(folder.path(), "one.jsonl", &[b"\n", *row].concat());
        let error = read(&[one], BadRows::Error).expect_err("fails");
        assert!(matches!(error, Error::BadRow { line: 2, .. }), "row {i}: {error}");
    }
    let error = read(std::slice::from_ref(&path), BadRows::Error).expect_err("fails").to_string();
    assert!(error.contains("rows.jsonl:2: ") && error.contains("missing field `text`"), "{error}");

    let corpus = Corpus::new([path], BadRows::Count).expect("works");
    let mut documents = corpus.documents();
    let lines: Vec<u64> = documents.by_ref().map(|d| d.expect("works").line).collect();
    assert_eq!((lines, documents.n_bad_rows()), (vec![1, 7], 5));
    assert_eq!((documents.n_files_done(), documents.n_bytes_read()), (1, corpus.n_bytes()));
}

#[test]
fn a_truncated_archive_is_an_error_even_where_rows_are_counted() {
    let folder = tempfile::tempdir().expect("works");
    let whole = gz(ROWS.repeat(50).as_bytes());
    let path = write(folder.path(), "cut.jsonl.gz", &whole[..whole.len() / 2]);
    let after = write(folder.path(), "after.jsonl", ROWS.as_bytes());
    let corpus = Corpus::new([path, after], BadRows::Count).expect("works");
    let mut documents = corpus.documents();
    let error = documents.find_map(Result::err).expect("works");
    assert!(error.to_string().contains("cut.jsonl.gz: line "), "{error}");
    assert!(documents.next().is_none(), "nothing follows an error");
    let path = write(folder.path(), "not.jsonl.zst", b"this is not zstd");
    assert!(matches!(read(&[path], BadRows::Count), Err(Error::Io { .. })));
}

#[test]
fn files_are_checked_before_the_first_is_read() {
    let folder = tempfile::tempdir().expect("works");
    let good = write(folder.path(), "a.jsonl", b"");
    let none: [PathBuf; 0] = [];
    assert!(matches!(Corpus::new(none, BadRows::Error), Err(Error::NoFiles)));
    for name in ["a.parquet.gz", "a.gz", "jsonl", "a.jsonl.bz2"] {
        let path = write(folder.path(), name, b"");
        let found = Corpus::new([good.clone(), path], BadRows::Error);
        assert!(matches!(found, Err(Error::UnknownFormat { .. })), "{name}");
    }
    let missing = Corpus::new([good, folder.path().join("b.jsonl")], BadRows::Error);
    assert!(missing.expect_err("fails").to_string().contains("b.jsonl: "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_read_as_it_was_written(texts in prop::collection::vec(any::<String>(), 1..6)) {
        let folder = tempfile::tempdir().expect("works");
        let mut bytes = Vec::new();
        for text in &texts {
            serde_json::to_writer(&mut bytes, &serde_json::json!({ "text": text })).expect("works");
            bytes.push(b'\n');
        }
        let path = write(folder.path(), "a.jsonl.zst", &zstd::encode_all(&*bytes, 1).expect("works"));
        let documents = read(&[path], BadRows::Error).expect("works");
        let found: Vec<String> = documents.into_iter().map(|document| document.text).collect();
        prop_assert_eq!(found, texts);
    }

    #[test]
    fn every_line_is_a_document_or_counted_or_blank(
        lines in prop::collection::vec(
            prop_oneof![
                Just(br#"{"text": "t"}"#.to_vec()),
                Just(b" ".to_vec()),
                prop::collection::vec(any::<u8>().prop_filter("no newline", |&b| b != b'\n'), 0..20),
            ],
            1..12,
        ),
    ) {
        let folder = tempfile::tempdir().expect("works");
        let path = write(folder.path(), "a.jsonl", &lines.join(&b'\n'));
        let corpus = Corpus::new([path], BadRows::Count).expect("works");
        let mut documents = corpus.documents();
        let read: Vec<Document> = documents.by_ref().collect::<Result<_>>().expect("works");
        let n_documents = read.len();
        let blank = |line: &&Vec<u8>| line.iter().all(u8::is_ascii_whitespace);
        let n_blank = lines.iter().filter(blank).count();
        prop_assert_eq!(n_documents + documents.n_bad_rows() as usize + n_blank, lines.len());
        let n_good = lines.iter().filter(|line| line.starts_with(b"{\"text")).count();
        prop_assert!(n_documents >= n_good);
    }
}
