//! Chat templates: a conversation as the text that a model was trained to continue.
//!
//! A checkpoint brings its own, in Jinja. It is rendered as `apply_chat_template` of transformers
//! does (`utils/chat_template_utils.py`): blocks trimmed, Python's string methods, `tojson` as
//! `json.dumps` writes it, `raise_exception`, `strftime_now`, `break` and `continue`, and the
//! special tokens by name. As there, text of a user that spells a special token becomes that token.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A template that turns conversations into text.
///
/// ```
/// use olmo_data::{ChatTemplate, Message};
///
/// # fn main() -> olmo_data::Result<()> {
/// let source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}\n{% endfor %}";
/// let template = ChatTemplate::new(source, "the example")?;
/// let text = template.render(&[Message::new("user", "Hello ")], false)?;
/// assert_eq!(text, "<|user|>\nHello\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    origin: String,
    special_tokens: BTreeMap<String, String>,
}

/// What of `tokenizer_config.json` concerns us.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
}

/// One template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

const NAME: &str = "chat_template";

/// A template comes from elsewhere: it may not ask for memory without end.
const MAX_INDENT: usize = 64;

/// Nor may it go on without end: instructions, and parts of 64 bytes that it writes or looks through. The
/// templates that we compare with transformers take fewer than 50 for a message of a line.
const FUEL: u64 = 20_000_000;

impl ChatTemplate {
    /// A template from its source; `origin` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] where the source is no Jinja.
    pub fn new(source: &str, origin: impl Into<String>) -> Result<Self> {
        let origin = origin.into();
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| failure(&origin, &error))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.set_fuel(Some(FUEL));
        let added = environment.add_template_owned(NAME, without_generation_tags(source));
        added.map_err(|error| failure(&origin, &error))?;
        Ok(Self { environment, origin, special_tokens: BTreeMap::new() })
    }

    /// Reads a template file, with the special tokens of the `tokenizer_config.json` in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::ChatTemplate`] where it is no template.
    pub fn from_file(path: impl AsRef<Path>, folder: &Path) -> Result<Self> {
        let path = path.as_ref();
        let source = fs::read_to_string(path).map_err(Error::io(path))?;
        let config = TokenizerConfig::read(folder)?;
        Ok(Self::new(&source, path.display().to_string())?.with_special_tokens(&config))
    }

    /// The template of a model folder: `chat_template.jinja`, or what `tokenizer_config.json` has;
    /// `None` where there is none, as for base models.
    ///
    /// # Errors
    ///
    /// As of [`ChatTemplate::from_file`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let path = folder.join("chat_template.jinja");
        if path.exists() {
            return Self::from_file(&path, folder).map(Some);
        }
        let mut config = TokenizerConfig::read(folder)?;
        let source = match config.chat_template.take() {
            None => return Ok(None),
            Some(Templates::One(source)) => source,
            Some(Templates::Named(templates)) => {
                let default = templates.into_iter().find(|template| template.name == "default");
                let Some(default) = default else { return Ok(None) };
                default.template
            }
        };
        let origin = folder.join("tokenizer_config.json").display().to_string();
        Ok(Some(Self::new(&source, origin)?.with_special_tokens(&config)))
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant's answer
    /// begins.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] with what the template objects to, such as a role it does not know, and
    /// where it does not come to an end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let failed = |error| failure(&self.origin, &error);
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            // What transformers passes where it is given none.
            tools => Value::from(()),
            documents => Value::from(()),
            ..Value::from(Serde(&self.special_tokens))
        };
        let template = self.environment.get_template(NAME).map_err(failed)?;
        template.render(variables).map_err(failed)
    }

    /// What the template writes behind an answer: text that begins with the token that ends one.
    ///
    /// # Errors
    ///
    /// As of [`ChatTemplate::render`].
    pub fn end_of_answer(&self) -> Result<String> {
        const ANSWER: &str = "the answer";
        let messages = [Message::new("user", "a question"), Message::new("assistant", ANSWER)];
        let text = self.render(&messages, false)?;
        Ok(text.rsplit_once(ANSWER).map_or(String::new(), |(_, end)| end.to_owned()))
    }

    fn with_special_tokens(mut self, config: &TokenizerConfig) -> Self {
        let TokenizerConfig { bos_token, eos_token, pad_token, unk_token, .. } = config;
        let named = [
            ("bos_token", bos_token),
            ("eos_token", eos_token),
            ("pad_token", pad_token),
            ("unk_token", unk_token),
        ];
        for (name, token) in named {
            if let Some(SpecialToken::Text(text) | SpecialToken::Added { content: text }) = token {
                self.special_tokens.insert(name.to_owned(), text.clone());
            }
        }
        self
    }
}

impl TokenizerConfig {
    /// What a folder's file says; nothing where it has none.
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::ChatTemplate {
                origin: path.display().to_string(),
                reason: error.to_string(),
            }),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }
}

fn failure(origin: &str, error: &minijinja::Error) -> Error {
    let reason = match error.detail() {
        _ if error.kind() == ErrorKind::OutOfFuel => {
            format!("it does not come to an end within {FUEL} steps")
        }
        Some(detail) => match error.line() {
            Some(line) => format!("line {line}: {detail}"),
            None => detail.to_owned(),
        },
        None => error.to_string(),
    };
    Error::ChatTemplate { origin: origin.to_owned(), reason }
}

/// `{% generation %}` marks what is trained on, and changes nothing in the text.
fn without_generation_tags(source: &str) -> String {
    let mut text = source.to_owned();
    for open in ["{% ", "{%- "] {
        for close in [" %}", " -%}"] {
            text =
                text.replace(&format!("{open}generation{close}"), &format!("{open}if true{close}"));
            text = text
                .replace(&format!("{open}endgeneration{close}"), &format!("{open}endif{close}"));
        }
    }
    text
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let items = chrono::format::StrftimeItems::new(format).parse().map_err(|_| {
        let message = format!("strftime_now does not know the format {format:?}");
        minijinja::Error::new(ErrorKind::InvalidOperation, message)
    })?;
    Ok(chrono::Local::now().format_with_items(items.iter()).to_string())
}

/// `json.dumps(value, ensure_ascii=False)`, with `indent` if it is given.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let unable = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
    };
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    if let Some(indent) = indent {
        let indent = vec![b' '; indent.min(MAX_INDENT)];
        let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        value.serialize(&mut serializer).map_err(unable)?;
    } else {
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
        value.serialize(&mut serializer).map_err(unable)?;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if ascii == Some(true) { escaped(&text) } else { text })
}

/// Everything that is not ASCII as `\uXXXX`.
fn escaped(text: &str) -> String {
    let mut units = [0; 2];
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Python's separators: a space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
