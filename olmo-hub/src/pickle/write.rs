//! The few pickles that we write, in protocol 2 or 4 as the reference does.

/// Writes opcodes one after the other; the memo, which only saves space, is left out.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins a pickle of protocol 2, which is torch's.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0x80, 2] }
    }

    pub(crate) fn op(&mut self, opcode: u8) -> &mut Self {
        self.bytes.push(opcode);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self
    }

    pub(crate) fn int(&mut self, value: u64) -> &mut Self {
        if let Ok(value) = u8::try_from(value) {
            self.bytes.extend([b'K', value]);
        } else if let Ok(value) = i32::try_from(value) {
            self.bytes.push(b'J');
            self.bytes.extend(value.to_le_bytes());
        } else {
            // Sizes are far from the highest bit, which would be a sign.
            self.bytes.extend([0x8A, 8]);
            self.bytes.extend(value.to_le_bytes());
        }
        self
    }

    pub(crate) fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
        self
    }

    /// A tuple of sizes.
    pub(crate) fn sizes(&mut self, sizes: &[usize]) -> &mut Self {
        self.op(b'(');
        for &size in sizes {
            self.int(size as u64);
        }
        self.op(b't')
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }
}

/// `pickle.dumps(((name,), False))` of Python 3.8 to 3.13, byte for byte.
pub(crate) fn key(name: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if let Ok(length) = u8::try_from(name.len()) {
        body.extend([0x8C, length]);
    } else {
        body.push(b'X');
        body.extend((name.len() as u32).to_le_bytes());
    }
    body.extend(name.as_bytes());
    body.extend([0x94, 0x85, 0x94, 0x89, 0x86, 0x94, b'.']);
    let mut bytes = vec![0x80, 4, 0x95];
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{Node, Pickle};
    use super::*;

    #[test]
    fn numbers_of_every_size_come_back() {
        for value in [0, 255, 256, 65_536, 1 << 31, (1 << 40) + 5, i64::MAX as u64] {
            let mut writer = Writer::new();
            writer.sizes(&[value as usize, 1]);
            let bytes = writer.finish();
            let pickle = Pickle::parse(&bytes, &[]).unwrap();
            let Node::Tuple(items) = pickle.root() else { panic!("a tuple") };
            assert_eq!(pickle.size(items[0]), Some(value));
        }
    }

    #[test]
    fn keys_are_those_of_python() {
        let expected = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x16transformer.wte.weight\x94\x85\x94\x89\x86\x94.";
        assert_eq!(key("transformer.wte.weight"), expected);
    }
}
