//! Tokenizing as a whole: what is written, what is refused, what is left behind.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use olmo_data::{
    BadRows, BpeTraining, Corpus, Error, Manifest, Progress, SpecialTokens, TokenDataset,
    TokenDtype, TokenFile, Tokenize, Tokenizer,
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
    assert_eq!(entries(&out).len(), 2 * report.files.len() + 1); // with the manifest
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

/// Three files with 40 documents each, the second with bad lines between them.
fn three_files(folder: &Path) -> Corpus {
    let mut paths = Vec::new();
    for name in ["a.jsonl", "b.jsonl", "c.jsonl"] {
        let mut rows = Vec::new();
        for i in 0..40 {
            rows.extend(
                format!("{{\"id\": \"{name}-{i}\", \"text\": \"document {i}\"}}\n").bytes(),
            );
            if name == "b.jsonl" && i % 20 == 0 {
                rows.extend(b"no json\n{\"text\": \"\xff\"}\n");
            }
        }
        paths.push(folder.join(name));
        std::fs::write(paths.last().expect("a path"), rows).expect("written");
    }
    Corpus::new(paths, BadRows::Count).expect("a corpus")
}

#[test]
fn rejected_lines_are_written_aside_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("tokens");
    let report = Tokenize::new(&tokenizer())
        .expect("ready")
        .run(&three_files(folder.path()), &out)
        .expect("run");
    assert_eq!((report.n_documents, report.n_bad_rows), (120, 4));
    let rejected = std::fs::read_to_string(out.join("rejected.jsonl")).expect("written");
    let rows: Vec<serde_json::Value> =
        rejected.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let lines: Vec<u64> = rows.iter().map(|row| row["line"].as_u64().expect("a line")).collect();
    assert_eq!(lines, [2, 3, 23 + 1, 23 + 2]);
    for row in rows {
        assert!(row["path"].as_str().expect("a path").ends_with("b.jsonl"));
        assert!(!row["reason"].as_str().expect("a reason").is_empty());
    }
}

#[test]
fn the_manifest_knows_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("tokens");
    let tokenize = Tokenize::new(&tokenizer()).expect("ready").with_max_tokens_per_file(100);
    let report = tokenize.run(&three_files(folder.path()), &out).expect("run");
    let manifest = Manifest::read(out.join("manifest.json")).expect("a manifest");
    assert_eq!((manifest.inputs.len(), manifest.outputs.len()), (3, 2 * report.files.len()));
    assert_eq!(manifest.counts.n_tokens, report.n_tokens);
    assert!(manifest.changed_files(&out).expect("looked").is_empty());
    std::fs::write(&report.files[1], [0; 8]).expect("written");
    let name = report.files[1].file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(manifest.changed_files(&out).expect("looked"), [name]);
}

#[test]
fn files_are_tokenized_apart_and_work_goes_on_where_it_was_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = three_files(folder.path());
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    let whole = folder.path().join("whole");
    let report =
        tokenize.run_by_file(&corpus, &whole, &mut |_| ControlFlow::Continue(())).expect("run");
    assert_eq!((report.n_documents, report.n_bad_rows, report.files.len()), (120, 4, 3));

    // Each is what tokenizing that file alone gives.
    for (path, tokens) in corpus.paths().iter().zip(&report.files) {
        let one = Corpus::new([path], BadRows::Count).expect("a corpus");
        let alone = folder.path().join("alone").join(path.file_name().expect("a name"));
        let alone = tokenize.run(&one, alone).expect("run");
        let read = |path: &Path| std::fs::read(path).expect("read");
        assert_eq!(read(tokens), read(&alone.files[0]));
    }

    let stopped = folder.path().join("stopped");
    let mut n_calls = 0;
    let result = tokenize.run_by_file(&corpus, &stopped, &mut |now| {
        n_calls += 1;
        if now.n_files_done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    let n_done =
        entries(&stopped).iter().filter(|path| path.extension() == Some("json".as_ref())).count();
    assert!((1..3).contains(&n_done), "{n_done}");
    let mut first = None;
    let resumed = tokenize
        .run_by_file(&corpus, &stopped, &mut |now: Progress| {
            first.get_or_insert(now);
            ControlFlow::Continue(())
        })
        .expect("resumed");
    assert_eq!(resumed.n_tokens, report.n_tokens);
    for (a, b) in resumed.files.iter().zip(&report.files) {
        assert_eq!(std::fs::read(a).expect("read"), std::fs::read(b).expect("read"));
    }

    let other = tokenize.clone().with_max_tokens_per_file(50);
    let error = other.run_by_file(&corpus, &stopped, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(Error::OtherOutput { .. })));
}

#[test]
fn files_that_are_gone_are_made_again_and_changed_input_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = three_files(folder.path());
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    let out = folder.path().join("tokens");
    let run = || tokenize.run_by_file(&corpus, &out, &mut |_| ControlFlow::Continue(()));
    let report = run().expect("run");
    let tokens = std::fs::read(&report.files[1]).expect("tokens");
    std::fs::remove_file(&report.files[1]).expect("removed");
    std::fs::write(out.join(".tmp-olmo-killed"), "half").expect("written");
    assert_eq!(run().expect("run again").n_tokens, report.n_tokens);
    assert_eq!(std::fs::read(&report.files[1]).expect("made again"), tokens);
    assert!(entries(&out).iter().all(|path| !path.ends_with(".tmp-olmo-killed")));

    // Other text of the same length.
    let input = &corpus.paths()[1];
    let text = std::fs::read(input).expect("read");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    std::fs::write(input, text).expect("written");
    let file = std::fs::File::options().append(true).open(input).expect("there");
    file.set_modified(later).expect("set");
    assert!(matches!(run(), Err(Error::OtherOutput { .. })));
}

#[test]
fn a_shuffle_has_the_same_documents_in_an_order_of_its_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = tokenizer();
    let corpus = corpus(folder.path(), 200);
    let texts = |out: &str, seed: Option<u64>| {
        let mut tokenize = Tokenize::new(&tokenizer).expect("ready");
        if let Some(seed) = seed {
            tokenize = tokenize.with_shuffle_seed(seed);
        }
        let report = tokenize.run(&corpus, folder.path().join(out)).expect("tokenized");
        let file = TokenFile::open(&report.files[0], report.dtype).expect("tokens");
        let tokens = file.read(0..file.len()).expect("read");
        let text = tokenizer.decode(&tokens, SpecialTokens::Keep).expect("decoded");
        text.split_terminator("<|endoftext|>").map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = texts("plain", None);
    let mut shuffled = texts("shuffled", Some(1));
    assert_eq!(shuffled, texts("again", Some(1)));
    assert_ne!(shuffled, texts("other", Some(2)));
    assert_ne!(shuffled, plain);
    shuffled.sort_unstable();
    let mut sorted = plain;
    sorted.sort_unstable();
    assert_eq!(shuffled, sorted);
}

#[test]
fn a_file_named_twice_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = corpus(folder.path(), 1).paths()[0].clone();
    let again = folder.path().join("../").join(folder.path().file_name().expect("a name"));
    let paths = [path, again.join("documents.jsonl")];
    assert!(matches!(Corpus::new(paths, BadRows::Error), Err(Error::SameFile { .. })));
}

#[test]
fn a_line_that_is_too_long_is_rejected_by_number_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.jsonl.gz");
    let file = std::fs::File::create(&path).expect("created");
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let long = format!("{{\"text\": \"{}\"}}\n", "a".repeat(1 << 20));
    for line in ["{\"text\": \"before\"}\n", &long, "{\"text\": \"after\"}\n"] {
        packed.write_all(line.as_bytes()).expect("written");
    }
    packed.finish().expect("written");
    let tokenize = Tokenize::new(&tokenizer()).expect("ready");
    let corpus =
        |bad_rows| Corpus::new([&path], bad_rows).expect("a corpus").with_max_line_bytes(1 << 16);
    let error = tokenize.run(&corpus(BadRows::Error), folder.path().join("strict"));
    let error = error.expect_err("too long").to_string();
    assert!(error.contains("long.jsonl.gz:2: 1048589 bytes long, at most 65536"), "{error}");
    let out = folder.path().join("tokens");
    let report = tokenize
        .run_by_file(&corpus(BadRows::Count), &out, &mut |_| ControlFlow::Continue(()))
        .expect("run");
    assert_eq!((report.n_documents, report.n_bad_rows), (2, 1));
    let rejected = std::fs::read_to_string(out.join("part-0-rejected.jsonl")).expect("written");
    assert!(rejected.contains("\"line\":2") && rejected.contains("1048589 bytes"), "{rejected}");
}

#[test]
fn two_files_of_the_same_name_are_two_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut paths = Vec::new();
    for part in ["a", "b"] {
        std::fs::create_dir(folder.path().join(part)).expect("made");
        paths.push(folder.path().join(part).join("documents.jsonl"));
        let row = format!("{{\"id\": \"{part}\", \"text\": \"document of {part}\"}}\n");
        std::fs::write(paths.last().expect("a path"), row).expect("written");
    }
    let corpus = Corpus::new(&paths, BadRows::Error).expect("a corpus");
    let tokenizer = tokenizer();
    let tokenize = Tokenize::new(&tokenizer).expect("ready");
    let out = folder.path().join("tokens");
    let report =
        tokenize.run_by_file(&corpus, &out, &mut |_| ControlFlow::Continue(())).expect("run");
    assert_eq!((report.n_documents, report.files.len()), (2, 2));
    for (file, path) in report.files.iter().zip(&paths) {
        let bounds = olmo_data::DocumentBounds::open(
            file,
            TokenFile::open(file, report.dtype).expect("tokens").len() as u64,
        );
        let bound = bounds.expect("opened").expect("there").next().expect("one").expect("sound");
        assert_eq!(bound.source.as_deref(), path.to_str());
    }
}
