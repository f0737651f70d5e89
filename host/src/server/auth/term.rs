//! Reads Erlang's external term format, as far as `Phoenix.Token` signs terms that JSON can hold.
//!
//! Even a signed term may be odd: whoever can sign one must not be able to stop the server. So the reader goes
//! [`MAX_DEPTH`] levels deep at most, and believes no length that is longer than the bytes that are left.

use serde_json::{Map, Number, Value};

/// How deep data may be nested.
pub(super) const MAX_DEPTH: usize = 32;

const VERSION: u8 = 131;

/// What a term begins with: its kind.
mod tag {
    pub(super) const NEW_FLOAT: u8 = 70;
    pub(super) const SMALL_INTEGER: u8 = 97;
    pub(super) const INTEGER: u8 = 98;
    pub(super) const ATOM: u8 = 100;
    pub(super) const SMALL_TUPLE: u8 = 104;
    pub(super) const LARGE_TUPLE: u8 = 105;
    pub(super) const NIL: u8 = 106;
    pub(super) const STRING: u8 = 107;
    pub(super) const LIST: u8 = 108;
    pub(super) const BINARY: u8 = 109;
    pub(super) const SMALL_BIG: u8 = 110;
    pub(super) const LARGE_BIG: u8 = 111;
    pub(super) const SMALL_ATOM: u8 = 115;
    pub(super) const MAP: u8 = 116;
    pub(super) const ATOM_UTF8: u8 = 118;
    pub(super) const SMALL_ATOM_UTF8: u8 = 119;
}

/// Why a term cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// It ends too early or too late, or is no term.
    Broken,
    /// It is nested too deep.
    Deep,
    /// JSON has nothing for it: a pid, a number of more than 64 bits, bytes that are no text.
    NotJson,
    /// Two keys of a map are the same text, as `:sub` and `"sub"` are.
    Ambiguous,
}

/// A whole term, or the elements of the tuple or map that it is.
#[derive(Debug)]
pub(super) enum Outer {
    /// Its elements, and whether each is an atom.
    Tuple(Vec<(Value, bool)>),
    /// Its entries.
    Map(Map<String, Value>),
}

/// Reads a term that is a tuple or a map.
pub(super) fn read(bytes: &[u8]) -> Result<Outer, Odd> {
    let mut rest = Rest(bytes);
    if rest.byte()? != VERSION {
        return Err(Odd::Broken);
    }
    let outer = match rest.byte()? {
        kind @ (tag::SMALL_TUPLE | tag::LARGE_TUPLE) => {
            let arity = rest.arity(kind)?;
            let element = |_| {
                let is_atom = rest.is_atom();
                Ok((rest.value(0)?, is_atom))
            };
            Outer::Tuple((0..arity).map(element).collect::<Result<_, _>>()?)
        }
        // The data in it has the same depth as in a tuple.
        tag::MAP => Outer::Map(rest.map(0)?),
        _ => return Err(Odd::Broken),
    };
    if rest.0.is_empty() { Ok(outer) } else { Err(Odd::Broken) }
}

/// The bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The next term as JSON, which is so deep inside of others.
    fn value(&mut self, depth: usize) -> Result<Value, Odd> {
        if depth > MAX_DEPTH {
            return Err(Odd::Deep);
        }
        Ok(match self.byte()? {
            tag::SMALL_INTEGER => self.byte()?.into(),
            tag::INTEGER => i32::from_be_bytes(self.array()?).into(),
            tag::SMALL_BIG => {
                let bytes = usize::from(self.byte()?);
                Value::Number(self.big(bytes)?)
            }
            tag::LARGE_BIG => {
                let bytes = self.length()?;
                Value::Number(self.big(bytes)?)
            }
            tag::NEW_FLOAT => {
                let float = f64::from_be_bytes(self.array()?);
                Value::Number(Number::from_f64(float).ok_or(Odd::NotJson)?)
            }
            kind @ (tag::ATOM | tag::ATOM_UTF8) => {
                let bytes = usize::from(self.short()?);
                atom(kind == tag::ATOM_UTF8, self.bytes(bytes)?)?
            }
            kind @ (tag::SMALL_ATOM | tag::SMALL_ATOM_UTF8) => {
                let bytes = usize::from(self.byte()?);
                atom(kind == tag::SMALL_ATOM_UTF8, self.bytes(bytes)?)?
            }
            tag::BINARY => {
                let bytes = self.length()?;
                text(self.bytes(bytes)?)?.into()
            }
            tag::NIL => Value::Array(Vec::new()),
            // The short form of a list of small numbers.
            tag::STRING => {
                let bytes = usize::from(self.short()?);
                self.bytes(bytes)?.iter().map(|byte| Value::from(*byte)).collect()
            }
            tag::LIST => {
                let count = self.count(1)?;
                let list = self.values(count, depth + 1)?;
                // What else may stand there makes an improper list.
                if self.byte()? != tag::NIL {
                    return Err(Odd::NotJson);
                }
                list
            }
            kind @ (tag::SMALL_TUPLE | tag::LARGE_TUPLE) => {
                let arity = self.arity(kind)?;
                self.values(arity, depth + 1)?
            }
            tag::MAP => Value::Object(self.map(depth + 1)?),
            _ => return Err(Odd::NotJson),
        })
    }

    fn values(&mut self, count: usize, depth: usize) -> Result<Value, Odd> {
        (0..count).map(|_| self.value(depth)).collect()
    }

    /// The entries of a map. Their keys and values are so deep inside of others.
    fn map(&mut self, depth: usize) -> Result<Map<String, Value>, Odd> {
        let mut map = Map::new();
        for _ in 0..self.count(2)? {
            let key = match self.value(depth)? {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                _ => return Err(Odd::NotJson),
            };
            let value = self.value(depth)?;
            if map.insert(key, value).is_some() {
                return Err(Odd::Ambiguous);
            }
        }
        Ok(map)
    }

    /// A number of so many bytes, the lowest first, behind its sign.
    fn big(&mut self, bytes: usize) -> Result<Number, Odd> {
        const U64_BYTES: usize = 8;
        let is_negative = self.byte()? != 0;
        let magnitude = self.bytes(bytes)?;
        let (low, high) = magnitude.split_at(magnitude.len().min(U64_BYTES));
        if high.iter().any(|byte| *byte != 0) {
            return Err(Odd::NotJson);
        }
        let number = low.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if is_negative {
            let number = 0_i64.checked_sub_unsigned(number).ok_or(Odd::NotJson)?;
            Ok(number.into())
        } else {
            Ok(number.into())
        }
    }

    fn is_atom(&self) -> bool {
        let atoms = [tag::ATOM, tag::SMALL_ATOM, tag::ATOM_UTF8, tag::SMALL_ATOM_UTF8];
        self.0.first().is_some_and(|kind| atoms.contains(kind))
    }

    fn arity(&mut self, kind: u8) -> Result<usize, Odd> {
        if kind == tag::SMALL_TUPLE {
            return Ok(usize::from(self.byte()?));
        }
        self.count(1)
    }

    /// How many parts follow, each of at least so many bytes.
    fn count(&mut self, least_bytes: usize) -> Result<usize, Odd> {
        let count = self.length()?;
        if count > self.0.len() / least_bytes {
            return Err(Odd::Broken);
        }
        Ok(count)
    }

    fn length(&mut self) -> Result<usize, Odd> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Odd::Broken)
    }

    fn short(&mut self) -> Result<u16, Odd> {
        self.array().map(u16::from_be_bytes)
    }

    fn byte(&mut self) -> Result<u8, Odd> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Odd> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Odd::Broken)?;
        self.0 = rest;
        Ok(*array)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Odd> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Odd::Broken)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// An atom. Old ones are in Latin-1.
fn atom(is_utf8: bool, name: &[u8]) -> Result<Value, Odd> {
    let name = if is_utf8 {
        text(name)?.to_owned()
    } else {
        name.iter().map(|byte| char::from(*byte)).collect()
    };
    Ok(match &*name {
        "nil" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => name.into(),
    })
}

fn text(bytes: &[u8]) -> Result<&str, Odd> {
    str::from_utf8(bytes).map_err(|_| Odd::NotJson)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What a term becomes that is the only element of a tuple.
    fn element(term: &[u8]) -> Result<Value, Odd> {
        match read(&[&[VERSION, tag::SMALL_TUPLE, 1], term].concat())? {
            Outer::Tuple(mut elements) => Ok(elements.remove(0).0),
            Outer::Map(map) => panic!("{map:?}"),
        }
    }

    fn tuples(depth: usize) -> Vec<u8> {
        [[tag::SMALL_TUPLE, 1].repeat(depth), vec![tag::SMALL_INTEGER, 7]].concat()
    }

    #[test]
    fn each_kind_of_term_that_json_has_is_read() {
        for (term, expected) in [
            (&[97, 255][..], json!(255)),
            (&[98, 255, 255, 255, 251], json!(-5)),
            (&[110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255], json!(u64::MAX)),
            (&[110, 8, 1, 0, 0, 0, 0, 0, 0, 0, 128], json!(i64::MIN)),
            (&[111, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], json!(1)),
            (&[70, 63, 248, 0, 0, 0, 0, 0, 0], json!(1.5)),
            (&[100, 0, 3, b'n', b'i', b'l'], json!(null)),
            (&[119, 4, b't', b'r', b'u', b'e'], json!(true)),
            (&[115, 1, b'a'], json!("a")),
            (&[118, 0, 2, 0xc3, 0xa9], json!("é")),
            (&[100, 0, 1, 0xe9], json!("é")),
            (&[109, 0, 0, 0, 1, b'x'], json!("x")),
            (&[106], json!([])),
            (&[107, 0, 2, 1, 2], json!([1, 2])),
            (&[108, 0, 0, 0, 1, 106, 106], json!([[]])),
            (&[105, 0, 0, 0, 1, 97, 1], json!([1])),
            (&[116, 0, 0, 0, 1, 97, 1, 97, 2], json!({ "1": 2 })),
        ] {
            assert_eq!(element(term), Ok(expected), "{term:?}");
        }
    }

    #[test]
    fn what_json_has_nothing_for_is_refused() {
        for term in [
            &[82, 0][..],
            &[77, 0, 0, 0, 1, 9, 255],
            &[88],
            &[70, 127, 240, 0, 0, 0, 0, 0, 0],
            &[110, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[110, 8, 1, 1, 0, 0, 0, 0, 0, 0, 128],
            &[109, 0, 0, 0, 1, 255],
            &[108, 0, 0, 0, 1, 97, 1, 97, 2],
            &[116, 0, 0, 0, 1, 106, 97, 2],
        ] {
            assert_eq!(element(term), Err(Odd::NotJson), "{term:?}");
        }
    }

    #[test]
    fn a_length_that_is_longer_than_the_rest_is_refused_at_once() {
        for kind in [tag::LARGE_TUPLE, tag::LIST, tag::BINARY, tag::LARGE_BIG, tag::MAP] {
            for length in [u32::MAX, i32::MAX as u32, 100] {
                let term = [&[kind][..], &length.to_be_bytes(), &[0]].concat();
                assert_eq!(element(&term), Err(Odd::Broken), "{kind} {length}");
            }
        }
        // Nothing may follow, either.
        assert_eq!(element(&[97, 1, 97, 1]), Err(Odd::Broken));
        assert_eq!(read(&[]).err(), Some(Odd::Broken));
        assert_eq!(read(&[130, 104, 0]).err(), Some(Odd::Broken));
        assert_eq!(read(&[131, 97, 1]).err(), Some(Odd::Broken));
    }

    #[test]
    fn terms_are_read_to_the_greatest_depth_and_no_deeper() {
        assert!(element(&tuples(MAX_DEPTH)).is_ok());
        assert_eq!(element(&tuples(MAX_DEPTH + 1)), Err(Odd::Deep));
        assert_eq!(element(&tuples(500_000)), Err(Odd::Deep));
    }

    #[test]
    fn a_map_whose_keys_become_one_text_is_ambiguous() {
        let (atom, text) = ([119, 1, b'a', 97, 1], [109, 0, 0, 0, 1, b'a', 97, 2]);
        for entries in [[&atom[..], &text], [&text, &atom], [&atom, &atom]] {
            let map = [&[tag::MAP, 0, 0, 0, 2][..], entries[0], entries[1]].concat();
            assert_eq!(element(&map), Err(Odd::Ambiguous));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(prop_oneof![
                any::<u8>(),
                prop::sample::select(&[0, 1, 2, 70, 97, 98, 100, 104, 105, 106, 107, 108, 109, 110, 111, 116, 119][..]),
            ], 0..60)
        ) {
            let _ = read(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
