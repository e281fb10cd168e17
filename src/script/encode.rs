//! A script's value as JSON bytes, bounded in depth and size. No intermediate tree is built.

use rhai::Dynamic;

use super::alloc;

/// Deepest nesting that has a JSON form here. A value that holds itself is found by it.
const DEPTH_MAX: usize = 64;

/// Why a value has no JSON form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EncodeError {
    /// It nests too deep, or holds itself.
    #[error("is nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// Its JSON text is too long.
    #[error("has a JSON form longer than {0} bytes")]
    Size(usize),
    /// The run's memory budget is gone.
    #[error("does not fit into the memory of this run")]
    Memory,
    /// It holds something that JSON cannot say.
    #[error("holds a {0}, which has no JSON form")]
    Kind(String),
}

/// Writes `value` as JSON of at most `bytes_max` bytes. Unit is `null`, as are numbers that are not finite. A blob is
/// a string in base64 (RFC 4648, section 4): an array of numbers would be four times as long and of no use.
pub(super) fn to_json(value: &Dynamic, bytes_max: usize) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer { out: Vec::new(), bytes_max };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: Vec<u8>,
    bytes_max: usize,
}

impl Writer {
    fn value(&mut self, value: &Dynamic, depth: usize) -> Result<(), EncodeError> {
        if depth > DEPTH_MAX {
            return Err(EncodeError::Depth);
        }
        if value.is_unit() {
            self.put(b"null")
        } else if let Ok(flag) = value.as_bool() {
            self.put(if flag { b"true" } else { b"false" })
        } else if let Ok(number) = value.as_int() {
            self.put(number.to_string().as_bytes())
        } else if let Ok(number) = value.as_float() {
            self.float(number)
        } else if let Ok(text) = value.as_immutable_string_ref() {
            self.string(&text)
        } else if let Ok(letter) = value.as_char() {
            self.string(letter.encode_utf8(&mut [0; 4]))
        } else {
            self.container(value, depth)
        }
    }

    fn container(&mut self, value: &Dynamic, depth: usize) -> Result<(), EncodeError> {
        if let Ok(map) = value.as_map_ref() {
            self.put(b"{")?;
            for (index, (key, item)) in map.iter().enumerate() {
                if index > 0 {
                    self.put(b",")?;
                }
                self.string(key)?;
                self.put(b":")?;
                self.value(item, depth + 1)?;
            }
            self.put(b"}")
        } else if let Ok(array) = value.as_array_ref() {
            self.put(b"[")?;
            for (index, item) in array.iter().enumerate() {
                if index > 0 {
                    self.put(b",")?;
                }
                self.value(item, depth + 1)?;
            }
            self.put(b"]")
        } else if let Ok(blob) = value.as_blob_ref() {
            self.base64(&blob)
        } else {
            Err(EncodeError::Kind(kind_of(value)))
        }
    }

    fn float(&mut self, number: f64) -> Result<(), EncodeError> {
        if !number.is_finite() {
            return self.put(b"null");
        }
        // serde_json prints the shortest text that reads back as the same number.
        let text = serde_json::to_vec(&number).map_err(|_| EncodeError::Kind("number".to_owned()))?;
        self.put(&text)
    }

    fn string(&mut self, text: &str) -> Result<(), EncodeError> {
        self.put(b"\"")?;
        let bytes = text.as_bytes();
        let mut plain_from = 0;
        for (at, byte) in bytes.iter().copied().enumerate() {
            let escape = match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..=0x1f => {
                    self.put(&bytes[plain_from..at])?;
                    self.put(format!("\\u{byte:04x}").as_bytes())?;
                    plain_from = at + 1;
                    continue;
                }
                _ => continue,
            };
            self.put(&bytes[plain_from..at])?;
            self.put(escape.as_bytes())?;
            plain_from = at + 1;
        }
        self.put(&bytes[plain_from..])?;
        self.put(b"\"")
    }

    fn base64(&mut self, blob: &[u8]) -> Result<(), EncodeError> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.put(b"\"")?;
        for chunk in blob.chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            let letter = |shift: u32| LETTERS[usize::try_from(bits >> shift & 63).unwrap_or(0)];
            let mut quad = [letter(18), letter(12), letter(6), letter(0)];
            quad[chunk.len() + 1..].fill(b'=');
            self.put(&quad)?;
        }
        self.put(b"\"")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if bytes.len() > self.bytes_max - self.out.len() {
            return Err(EncodeError::Size(self.bytes_max));
        }
        let free = self.out.capacity() - self.out.len();
        // A full vector doubles: for a moment it is there twice.
        if bytes.len() > free && (self.out.len() + bytes.len()).saturating_mul(2) > alloc::room() {
            return Err(EncodeError::Memory);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// What to call a value in a message.
pub(super) fn kind_of(value: &Dynamic) -> String {
    if value.is_fnptr() {
        return "closure".to_owned();
    }
    if value.is_timestamp() {
        return "timestamp".to_owned();
    }
    if value.is_map() {
        return "map".to_owned();
    }
    let name = value.type_name();
    if name.contains("Range") {
        "range".to_owned()
    } else {
        name.rsplit("::").next().unwrap_or(name).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: impl Into<Dynamic>, json: &str) {
        let bytes = to_json(&value.into(), 10_000).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), json);
    }

    #[test]
    fn scalars() {
        check((), "null");
        check(true, "true");
        check(i64::MIN, "-9223372036854775808");
        check(0.1 + 0.2, "0.30000000000000004");
        check(1e300, "1e+300");
        check(3.0, "3.0");
        check(f64::NAN, "null");
        check(f64::NEG_INFINITY, "null");
        check('ü', "\"ü\"");
    }

    #[test]
    fn strings_are_escaped_as_serde_json_does() {
        for text in ["", "plain", "\"\\/\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}", "ü€😀", "a\"b", "tail\n"] {
            let ours = to_json(&text.into(), 1000).unwrap();
            assert_eq!(serde_json::from_slice::<String>(&ours).unwrap(), text);
        }
    }

    #[test]
    fn containers() {
        check(Dynamic::from_array(vec![1.into(), "x".into(), ().into()]), "[1,\"x\",null]");
        let map =
            [("b".into(), 1.into()), ("a\"".into(), Dynamic::from_array(Vec::new()))].into_iter().collect();
        check(Dynamic::from_map(map), r#"{"a\"":[],"b":1}"#);
        for (blob, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            check(Dynamic::from_blob(blob.as_bytes().to_vec()), &format!("\"{text}\""));
        }
        check(Dynamic::from_array(vec![Dynamic::from(7_i64).into_shared()]), "[7]");
    }

    #[test]
    fn bounded() {
        let nested = |levels| (0..levels).fold(Dynamic::UNIT, |inner, _| Dynamic::from_array(vec![inner]));
        assert!(to_json(&nested(DEPTH_MAX), 1000).is_ok());
        assert_eq!(to_json(&nested(DEPTH_MAX + 1), 1000), Err(EncodeError::Depth));
        assert_eq!(to_json(&"xxx".into(), 5).unwrap(), b"\"xxx\"");
        assert_eq!(to_json(&"xxxx".into(), 5), Err(EncodeError::Size(5)));
        let pointer = Dynamic::from(rhai::FnPtr::new("f").unwrap());
        assert_eq!(to_json(&pointer, 1000), Err(EncodeError::Kind("closure".to_owned())));
        assert_eq!(to_json(&Dynamic::from(0_i64..3), 1000), Err(EncodeError::Kind("range".to_owned())));
    }
}
