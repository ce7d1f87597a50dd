//! What a line of a chat asks for.

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Empty,
    Message(&'a str),
    Reset,
    System(&'a str),
    Save(&'a str),
    Help,
    Exit,
    /// A command that is none, with what to say about it.
    Wrong(String),
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        if line.trim().is_empty() {
            return Self::Empty;
        }
        if !line.starts_with('/') {
            return Self::Message(line);
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (name, rest.trim()) {
            ("/reset", "") => Self::Reset,
            ("/help", "") => Self::Help,
            ("/exit" | "/quit", "") => Self::Exit,
            ("/system", "") => Self::Wrong("/system needs a text: /system TEXT".to_owned()),
            ("/system", text) => Self::System(text),
            ("/save", "") => Self::Wrong("/save needs a file: /save FILE".to_owned()),
            ("/save", path) => Self::Save(path),
            ("/reset" | "/help" | "/exit" | "/quit", _) => {
                Self::Wrong(format!("{name} stands alone in its line"))
            }
            _ => Self::Wrong(format!("there is no command {name}; /help lists those there are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_slash() {
        assert_eq!(Line::parse(" \t"), Line::Empty);
        assert_eq!(Line::parse("what is /reset?"), Line::Message("what is /reset?"));
        assert_eq!(Line::parse("/reset "), Line::Reset);
        assert_eq!(Line::parse("/system  Be brief. "), Line::System("Be brief."));
        assert_eq!(Line::parse("/save a b.jsonl"), Line::Save("a b.jsonl"));
        assert_eq!(Line::parse("/quit"), Line::Exit);
        for wrong in ["/system", "/save ", "/reset now", "/sytem x", "/"] {
            assert!(matches!(Line::parse(wrong), Line::Wrong(_)), "{wrong}");
        }
    }
}
