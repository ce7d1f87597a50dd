//! Documents from a Parquet file, row after row.
//!
//! The columns are those of a line of JSONL: `text`, and where they are there, `id` (text or whole
//! numbers) and `source`; others are passed over without being read. Rows are counted from 1, as
//! lines are. A row is no document where its text is missing, not UTF-8 or longer than the longest
//! line; a file is none where a column is missing or of another type, or its bytes are damaged.
//!
//! Read are a few rows at a time, page by page, so memory holds the pages that they are in, which
//! writers make about 1 MiB each, and never a row group.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::documents::Document;
use crate::{Error, Result};

/// Rows decoded in one go.
const BATCH_ROWS: usize = 64;

/// An open Parquet file.
pub(crate) struct ParquetRows {
    path: Arc<Path>,
    file: SerializedFileReader<File>,
    columns: Columns,
    max_text_bytes: u64,
    n_bytes: u64,
    next_row_group: usize,
    group: Option<RowGroup>,
    batch: VecDeque<Row>,
    /// Rows handed out, bad ones included.
    n_rows_read: u64,
    n_rows: u64,
}

/// Where the columns are among those of the file.
#[derive(Debug, Clone, Copy)]
struct Columns {
    text: usize,
    id: Option<usize>,
    source: Option<usize>,
}

/// The columns of a row group, each at the same row.
struct RowGroup {
    text: ColumnReaderImpl<ByteArrayType>,
    id: Option<(ColumnReader, bool)>,
    source: Option<ColumnReaderImpl<ByteArrayType>>,
    n_rows_left: usize,
}

struct Row {
    text: Option<ByteArray>,
    id: Option<RowId>,
    source: Option<ByteArray>,
}

enum RowId {
    Bytes(ByteArray),
    Number(String),
}

impl ParquetRows {
    /// Opens a file and finds its columns.
    pub(crate) fn open(path: &Path, max_text_bytes: u64) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let n_bytes = file.metadata().map_err(Error::io(path))?.len();
        let file = guarded(path, || SerializedFileReader::new(file))?;
        let metadata = file.metadata().file_metadata();
        let columns = Columns::find(metadata.schema_descr().columns())
            .map_err(|reason| Error::Parquet { path: path.to_owned(), reason })?;
        let n_rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
        Ok(Self {
            path: path.into(),
            file,
            columns,
            max_text_bytes,
            n_bytes,
            next_row_group: 0,
            group: None,
            batch: VecDeque::new(),
            n_rows_read: 0,
            n_rows,
        })
    }

    /// The next document; [`Error::BadRow`] for a row that is none, after which reading can go on.
    pub(crate) fn next_document(&mut self) -> Result<Option<Document>> {
        while self.batch.is_empty() {
            let path = Arc::clone(&self.path);
            if !guarded(&path, || self.fill())? {
                return Ok(None);
            }
        }
        let Some(row) = self.batch.pop_front() else { return Ok(None) };
        self.n_rows_read += 1;
        let line = self.n_rows_read;
        let path = Arc::clone(&self.path);
        document(row, path, line, self.max_text_bytes).map(Some).map_err(|reason| Error::BadRow {
            path: self.path.to_path_buf(),
            line,
            reason,
        })
    }

    /// The file's bytes by the share of its rows that were handed out.
    pub(crate) fn n_bytes_read(&self) -> u64 {
        if self.n_rows_read >= self.n_rows {
            return self.n_bytes;
        }
        (u128::from(self.n_bytes) * u128::from(self.n_rows_read) / u128::from(self.n_rows)) as u64
    }

    /// Decodes the next few rows; false at the end of the file.
    fn fill(&mut self) -> Result<bool, ParquetError> {
        let mut group = match self.group.take() {
            Some(group) => group,
            None if self.next_row_group == self.file.num_row_groups() => return Ok(false),
            None => {
                self.next_row_group += 1;
                RowGroup::open(&self.file, self.next_row_group - 1, self.columns)?
            }
        };
        let n_rows = group.n_rows_left.min(BATCH_ROWS);
        if n_rows > 0 {
            self.batch = group.read(n_rows)?;
            group.n_rows_left -= n_rows;
            self.group = Some(group);
        }
        Ok(true)
    }
}

impl std::fmt::Debug for ParquetRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetRows")
            .field("path", &self.path)
            .field("columns", &self.columns)
            .field("n_rows_read", &self.n_rows_read)
            .finish_non_exhaustive()
    }
}

impl Columns {
    fn find(columns: &[Arc<ColumnDescriptor>]) -> Result<Self, String> {
        let find = |name: &str| {
            columns
                .iter()
                .position(|column| matches!(column.path().parts(), [only] if only == name))
                .filter(|&i| columns[i].max_rep_level() == 0)
        };
        let is_bytes = |i: usize| columns[i].physical_type() == Type::BYTE_ARRAY;
        let wrong_type = |i: usize, expected: &str| {
            let name = columns[i].name();
            Err(format!("column {name} is of type {}, expected {expected}", type_name(&columns[i])))
        };
        let Some(text) = find("text") else {
            let names: Vec<_> = columns.iter().map(|column| column.path().string()).collect();
            return Err(format!("there is no column text, only {}", names.join(", ")));
        };
        if !is_bytes(text) {
            return wrong_type(text, "a string");
        }
        let id = find("id");
        if let Some(id) = id.filter(|&id| !is_bytes(id) && !is_whole_number(&columns[id])) {
            return wrong_type(id, "a string or a whole number");
        }
        // As of JSONL, where a source that is no string is passed over.
        Ok(Self { text, id, source: find("source").filter(|&i| is_bytes(i)) })
    }
}

impl RowGroup {
    fn open(
        file: &SerializedFileReader<File>,
        number: usize,
        columns: Columns,
    ) -> Result<Self, ParquetError> {
        let group = file.get_row_group(number)?;
        let n_rows_left = usize::try_from(group.metadata().num_rows())
            .map_err(|_| ParquetError::General("a row group of less than 0 rows".to_owned()))?;
        let bytes = |column| match group.get_column_reader(column)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(ParquetError::General("a row group has a column of another type".to_owned())),
        };
        let id = |column| {
            let is_unsigned = matches!(
                group.metadata().column(column).column_descr().converted_type(),
                ConvertedType::UINT_8
                    | ConvertedType::UINT_16
                    | ConvertedType::UINT_32
                    | ConvertedType::UINT_64
            );
            Ok::<_, ParquetError>((group.get_column_reader(column)?, is_unsigned))
        };
        Ok(Self {
            text: bytes(columns.text)?,
            id: columns.id.map(id).transpose()?,
            source: columns.source.map(bytes).transpose()?,
            n_rows_left,
        })
    }

    fn read(&mut self, n_rows: usize) -> Result<VecDeque<Row>, ParquetError> {
        let text = read_column(&mut self.text, n_rows)?;
        let id = match &mut self.id {
            None => (0..n_rows).map(|_| None).collect(),
            Some((reader, is_unsigned)) => read_ids(reader, *is_unsigned, n_rows)?,
        };
        let source = match &mut self.source {
            None => vec![None; n_rows],
            Some(reader) => read_column(reader, n_rows)?,
        };
        let rows = text.into_iter().zip(id).zip(source);
        Ok(rows.map(|((text, id), source)| Row { text, id, source }).collect())
    }
}

/// The next values of a column, `None` for one that is missing.
fn read_column<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    n_rows: usize,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let (n_read, n_values, n_levels) =
        reader.read_records(n_rows, Some(&mut levels), None, &mut values)?;
    if n_read != n_rows {
        let message = format!("a column ends {} rows before its row group", n_rows - n_read);
        return Err(ParquetError::General(message));
    }
    if levels.is_empty() && n_values == n_rows {
        return Ok(values.into_iter().map(Some).collect()); // a column in which none may be missing
    }
    let mut values = values.into_iter();
    let rows = levels[..n_levels.min(levels.len())].iter();
    Ok(rows.map(|&level| if level > 0 { values.next() } else { None }).collect())
}

fn read_ids(
    reader: &mut ColumnReader,
    is_unsigned: bool,
    n_rows: usize,
) -> Result<Vec<Option<RowId>>, ParquetError> {
    let number_32 =
        |id: i32| if is_unsigned { id.cast_unsigned().to_string() } else { id.to_string() };
    let number_64 =
        |id: i64| if is_unsigned { id.cast_unsigned().to_string() } else { id.to_string() };
    Ok(match reader {
        ColumnReader::ByteArrayColumnReader(reader) => {
            read_column(reader, n_rows)?.into_iter().map(|id| id.map(RowId::Bytes)).collect()
        }
        ColumnReader::Int32ColumnReader(reader) => {
            let ids = read_column(reader, n_rows)?.into_iter();
            ids.map(|id| id.map(|id| RowId::Number(number_32(id)))).collect()
        }
        ColumnReader::Int64ColumnReader(reader) => {
            let ids = read_column(reader, n_rows)?.into_iter();
            ids.map(|id| id.map(|id| RowId::Number(number_64(id)))).collect()
        }
        _ => return Err(ParquetError::General("a column of ids of another type".to_owned())),
    })
}

/// A document of a row, or what is wrong with that.
fn document(row: Row, path: Arc<Path>, line: u64, max_bytes: u64) -> Result<Document, String> {
    let Some(text) = row.text else { return Err("the text is missing".to_owned()) };
    if text.len() as u64 > max_bytes {
        let n_bytes = text.len();
        return Err(format!("{n_bytes} bytes long, at most {max_bytes} are read"));
    }
    let utf8 = |bytes: &ByteArray, what: &str| {
        let text = std::str::from_utf8(bytes.data());
        text.map(str::to_owned).map_err(|error| format!("the {what} is not UTF-8: {error}"))
    };
    let id = match row.id {
        None => None,
        Some(RowId::Number(id)) => Some(id),
        Some(RowId::Bytes(id)) => Some(utf8(&id, "id")?),
    };
    let source = row.source.map(|source| utf8(&source, "source")).transpose()?;
    Ok(Document { id, text: utf8(&text, "text")?, source, path, line })
}

fn is_whole_number(column: &ColumnDescriptor) -> bool {
    let is_integer = matches!(
        column.converted_type(),
        ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64
            | ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64
    );
    is_integer && matches!(column.physical_type(), Type::INT32 | Type::INT64)
}

fn type_name(column: &ColumnDescriptor) -> String {
    match column.converted_type() {
        ConvertedType::NONE => column.physical_type().to_string(),
        converted => converted.to_string(),
    }
}

/// Runs a part of the Parquet library on a file. On damaged files it not only gives errors but may
/// panic, mostly where offsets that are read from the file overflow; that is an error here. What it
/// was working on is not used again after an error.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it is damaged in a way that the Parquet library does not foresee".to_owned(),
    };
    Err(Error::Parquet { path: path.to_owned(), reason })
}
