//! Reads state.

use rmp::Marker;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::format::{Depth, Form, FormatError, MISREAD, MOST_LEVELS, SOME};

/// The name of the struct by which `serde_json` writes its `RawValue`.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// How deep the place of an error may be.
const MOST_LEVELS_OF_A_PLACE: u32 = 64;

/// Reads `bytes` as a `T`. Names the place of an error.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8], form: Form) -> Result<T, FormatError> {
    let mut reader = Reader::of(bytes, form, MOST_LEVELS);
    match T::deserialize(&mut reader) {
        Ok(state) if reader.bytes.is_empty() => Ok(state),
        Ok(_) => Err(FormatError::new(format!("{} bytes follow it", reader.bytes.len()))),
        Err(error) => Err(placed::<T>(bytes, form).unwrap_or(error)),
    }
}

/// The note of what the code of this state makes of it, if there is one, and the state.
pub(super) fn parts(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), FormatError> {
    let is_noted = bytes.first() == Some(&Marker::Ext32.to_u8()) && bytes.get(5) == Some(&MISREAD.cast_unsigned());
    if !is_noted {
        return Ok((None, bytes));
    }
    let mut reader = Reader::new(&bytes[1..]);
    let len = reader.sized(4)?;
    reader.take(1)?;
    Ok((Some(reader.take(len)?), reader.bytes))
}

/// Whether the headers of this state tell sets from lists, and maps from structs. The first text says so.
pub(super) fn tells(bytes: &[u8]) -> Result<bool, FormatError> {
    let mut reader = Reader::new(bytes);
    while !reader.bytes.is_empty() {
        let is_long = reader.has_long_text();
        if let Item::Text(_) = reader.next_item()? {
            return Ok(is_long);
        }
    }
    Ok(false)
}

/// The error of reading `bytes` as a `T`, with its place. `None` if that is deep inside: keeping track of the place takes much
/// more of the stack.
fn placed<T: DeserializeOwned>(bytes: &[u8], form: Form) -> Option<FormatError> {
    let mut reader = Reader::of(bytes, form, MOST_LEVELS_OF_A_PLACE);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    if reader.depth.exceeded {
        return None;
    }
    Some(match error.path().to_string().as_str() {
        "." => error.into_inner(),
        path => FormatError::new(format!("{path}: {}", error.inner())),
    })
}

/// What stands next in the bytes.
pub(super) enum Item<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Text(&'de str),
    Bytes(&'de [u8]),
    /// So many items follow.
    Array(usize),
    /// So many keys follow, each with its value.
    Map(usize),
    /// A value follows.
    Some,
}

/// What is left to be read.
pub(super) struct Reader<'de> {
    bytes: &'de [u8],
    form: Form,
    depth: Depth,
}

impl<'de> Reader<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        Self::of(bytes, Form::Readable, MOST_LEVELS)
    }

    fn of(bytes: &'de [u8], form: Form, most_levels: u32) -> Self {
        let depth = Depth::up_to(most_levels);
        Self { bytes, form, depth }
    }

    pub(super) fn next_item(&mut self) -> Result<Item<'de>, FormatError> {
        Ok(match Marker::from_u8(self.number(1)? as u8) {
            Marker::Null => Item::Nil,
            Marker::True => Item::Bool(true),
            Marker::False => Item::Bool(false),
            Marker::FixPos(value) => Item::Unsigned(value.into()),
            Marker::U8 => Item::Unsigned(self.number(1)?),
            Marker::U16 => Item::Unsigned(self.number(2)?),
            Marker::U32 => Item::Unsigned(self.number(4)?),
            Marker::U64 => Item::Unsigned(self.number(8)?),
            Marker::FixNeg(value) => Item::Signed(value.into()),
            Marker::I8 => Item::Signed((self.number(1)? as i8).into()),
            Marker::I16 => Item::Signed((self.number(2)? as i16).into()),
            Marker::I32 => Item::Signed((self.number(4)? as i32).into()),
            Marker::I64 => Item::Signed(self.number(8)? as i64),
            Marker::F32 => Item::F32(f32::from_bits(self.number(4)? as u32)),
            Marker::F64 => Item::F64(f64::from_bits(self.number(8)?)),
            Marker::FixStr(len) => self.text(len.into())?,
            Marker::Str8 => self.sized(1).and_then(|len| self.text(len))?,
            Marker::Str16 => self.sized(2).and_then(|len| self.text(len))?,
            Marker::Str32 => self.sized(4).and_then(|len| self.text(len))?,
            Marker::Bin8 => self.sized(1).and_then(|len| self.take(len)).map(Item::Bytes)?,
            Marker::Bin16 => self.sized(2).and_then(|len| self.take(len)).map(Item::Bytes)?,
            Marker::Bin32 => self.sized(4).and_then(|len| self.take(len)).map(Item::Bytes)?,
            Marker::FixArray(len) => Item::Array(len.into()),
            Marker::Array16 => self.sized(2).map(Item::Array)?,
            Marker::Array32 => self.sized(4).map(Item::Array)?,
            Marker::FixMap(len) => Item::Map(len.into()),
            Marker::Map16 => self.sized(2).map(Item::Map)?,
            Marker::Map32 => self.sized(4).map(Item::Map)?,
            Marker::FixExt1 | Marker::FixExt2 | Marker::FixExt4 | Marker::FixExt8 | Marker::FixExt16 => self.some()?,
            Marker::Ext8 => self.sized(1).and_then(|_| self.some())?,
            Marker::Ext16 => self.sized(2).and_then(|_| self.some())?,
            Marker::Ext32 => self.sized(4).and_then(|_| self.some())?,
            Marker::Reserved => return Err(FormatError::new("it is not MessagePack")),
        })
    }

    /// Whether the array or the map that follows has a longer header than it needs.
    pub(super) fn has_long_header(&self) -> bool {
        let [marker, len @ ..] = self.bytes else { return false };
        match Marker::from_u8(*marker) {
            Marker::Array16 | Marker::Map16 => matches!(len, [0, ..16, ..]),
            Marker::Array32 | Marker::Map32 => matches!(len, [0, 0, ..]),
            _ => false,
        }
    }

    /// Whether the text that follows has a longer header than it needs.
    fn has_long_text(&self) -> bool {
        matches!(self.bytes, [marker, 0, 0, ..] if *marker == Marker::Str32.to_u8())
    }

    /// What [`Reader::next_item`] will return, if it is nil.
    fn is_nil(&self) -> bool {
        self.bytes.first() == Some(&Marker::Null.to_u8())
    }

    fn take(&mut self, len: usize) -> Result<&'de [u8], FormatError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| FormatError::new("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A number of so many bytes, the highest first.
    fn number(&mut self, bytes: usize) -> Result<u64, FormatError> {
        Ok(self
            .take(bytes)?
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn sized(&mut self, bytes: usize) -> Result<usize, FormatError> {
        Ok(self.number(bytes)? as usize)
    }

    fn text(&mut self, len: usize) -> Result<Item<'de>, FormatError> {
        let text = str::from_utf8(self.take(len)?).map_err(|_| FormatError::new("its text is not UTF-8"))?;
        Ok(Item::Text(text))
    }

    fn some(&mut self) -> Result<Item<'de>, FormatError> {
        match self.number(1)? as i8 {
            SOME => Ok(Item::Some),
            other => Err(FormatError::new(format!(
                "it has a MessagePack extension of type {other}, which this version does not know"
            ))),
        }
    }

    /// Does something one level deeper.
    pub(super) fn inside<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FormatError>,
    ) -> Result<T, FormatError> {
        self.depth.enter()?;
        let done = read(self)?;
        self.depth.leave(1);
        Ok(done)
    }

    fn array<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, FormatError> {
        self.inside(|reader| {
            let mut items = Items { reader, left: len };
            let value = visitor.visit_seq(&mut items)?;
            match items.left {
                0 => Ok(value),
                left => Err(de::Error::invalid_length(len, &&*format!("{} items", len - left))),
            }
        })
    }

    fn map<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, FormatError> {
        self.inside(|reader| {
            let mut items = Items { reader, left: len };
            let value = visitor.visit_map(&mut items)?;
            match items.left {
                0 => Ok(value),
                left => Err(de::Error::invalid_length(len, &&*format!("{} entries", len - left))),
            }
        })
    }

    /// The 16 bytes of a number, if that is how it is written.
    fn long_number(&mut self) -> Result<Option<[u8; 16]>, FormatError> {
        match self.bytes {
            [marker, 16, ..] if *marker == Marker::Bin8.to_u8() => {
                self.take(2)?;
                Ok(self.take(16)?.try_into().ok())
            }
            _ => Ok(None),
        }
    }
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = FormatError;

    fn is_human_readable(&self) -> bool {
        self.form == Form::Readable
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormatError> {
        match self.next_item()? {
            Item::Nil => visitor.visit_unit(),
            Item::Bool(value) => visitor.visit_bool(value),
            Item::Unsigned(value) => visitor.visit_u64(value),
            Item::Signed(value) => visitor.visit_i64(value),
            Item::F32(value) => visitor.visit_f32(value),
            Item::F64(value) => visitor.visit_f64(value),
            Item::Text(value) => visitor.visit_borrowed_str(value),
            Item::Bytes(value) => visitor.visit_borrowed_bytes(value),
            Item::Array(len) => self.array(len, visitor),
            Item::Map(len) => self.map(len, visitor),
            Item::Some => self.inside(|reader| visitor.visit_some(reader)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormatError> {
        if self.is_nil() {
            self.take(1)?;
            return visitor.visit_none();
        }
        let all = self.bytes;
        // What is not marked begins with the value itself.
        if !matches!(self.next_item()?, Item::Some) {
            self.bytes = all;
        }
        self.inside(|reader| visitor.visit_some(reader))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, FormatError> {
        match self.next_item()? {
            Item::Nil | Item::Array(0) => visitor.visit_unit(),
            _ => Err(de::Error::invalid_type(de::Unexpected::Other("a value"), &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FormatError> {
        if name == RAW_VALUE {
            return self.deserialize_any(visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormatError> {
        match self.long_number()? {
            Some(bytes) => visitor.visit_u128(u128::from_be_bytes(bytes)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormatError> {
        match self.long_number()? {
            Some(bytes) => visitor.visit_i128(i128::from_be_bytes(bytes)),
            None => self.deserialize_any(visitor),
        }
    }

    /// A variant is its name, or a map from that to what is in it.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FormatError> {
        match self.next_item()? {
            Item::Text(name) => visitor.visit_enum(name.into_deserializer()),
            Item::Map(1) => self.inside(|reader| visitor.visit_enum(Variant { reader })),
            Item::Map(len) => Err(de::Error::invalid_length(len, &"a map with one entry, the variant")),
            _ => Err(de::Error::invalid_type(de::Unexpected::Other("a value"), &"a variant")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// The items of an array, or the entries of a map.
struct Items<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
}

impl<'de> Items<'_, 'de> {
    /// What may be trusted of a length that nobody has looked at: an item takes a byte at least.
    fn most(&self) -> Option<usize> {
        Some(self.left.min(self.reader.bytes.len()))
    }

    fn item<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FormatError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = FormatError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FormatError> {
        self.item(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.most()
    }
}

impl<'de> de::MapAccess<'de> for Items<'_, 'de> {
    type Error = FormatError;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FormatError> {
        self.item(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, FormatError> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.most()
    }
}

/// A variant with something in it.
struct Variant<'r, 'de> {
    reader: &'r mut Reader<'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = FormatError;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), FormatError> {
        let name = seed.deserialize(&mut *self.reader)?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = FormatError;

    fn unit_variant(self) -> Result<(), FormatError> {
        de::Deserialize::deserialize(self.reader)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, FormatError> {
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, FormatError> {
        de::Deserializer::deserialize_any(self.reader, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, FormatError> {
        de::Deserializer::deserialize_any(self.reader, visitor)
    }
}
