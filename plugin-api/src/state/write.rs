//! Writes state.

use std::any::type_name;

use rmp::Marker;
use rmp::encode;
use serde::ser::{self, Serialize};

use super::format::{Depth, Form, FormatError, MISREAD, MOST_LEVELS, SOME};

/// Appends `state` to `bytes`. Returns whether a field may have been left out.
pub(super) fn write<T: Serialize + ?Sized>(
    state: &T,
    form: Form,
    headers: Headers,
    bytes: &mut Vec<u8>,
) -> Result<bool, FormatError> {
    let mut writer = Writer {
        bytes,
        form,
        headers,
        depth: Depth::up_to(MOST_LEVELS),
        type_name: type_name::<T>,
        leaves_out: false,
        tells: headers == Headers::Lenient,
    };
    state.serialize(&mut writer)?;
    Ok(writer.leaves_out)
}

/// Appends the note that `misread` is what the code makes of the state that follows.
pub(super) fn write_misread(misread: &[u8], bytes: &mut Vec<u8>) -> Result<(), FormatError> {
    bytes.push(Marker::Ext32.to_u8());
    bytes.extend_from_slice(&short(misread.len())?.to_be_bytes());
    bytes.push(MISREAD.cast_unsigned());
    bytes.extend_from_slice(misread);
    Ok(())
}

/// Which headers arrays and maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    /// Sets, and maps whose keys are data, have longer ones.
    Telling,
    /// Nobody knows what they are, as in JSON. All arrays have that of a set, and all maps that of a struct.
    Lenient,
}

struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    form: Form,
    headers: Headers,
    depth: Depth,
    /// The name of the type that is being written.
    type_name: fn() -> &'static str,
    /// A field may have been left out: serde says so of structs, but not of flattened ones.
    leaves_out: bool,
    /// A text says already that headers tell something, or they do not.
    tells: bool,
}

/// Types that hold their items in no order, or in one of their own. References and smart pointers to them count as well.
fn is_set(type_name: &str) -> bool {
    let (mut path, mut inside) = type_name.split_once('<').unwrap_or((type_name, ""));
    loop {
        let name = path.trim_start_matches("&mut ").trim_start_matches('&');
        match name.rsplit("::").next().unwrap_or(name) {
            "Box" | "Rc" | "Arc" | "Cow" | "Cell" | "RefCell" | "Mutex" | "RwLock" => {
                (path, inside) = inside.split_once('<').unwrap_or((inside, ""));
            }
            name => return name.ends_with("HashSet") || matches!(name, "BTreeSet" | "BinaryHeap" | "DashSet"),
        }
    }
}

type Written = Result<(), FormatError>;

/// Memory is the only thing that could refuse bytes.
fn refused(error: impl std::fmt::Display) -> FormatError {
    FormatError::new(error.to_string())
}

impl<'a> Writer<'a> {
    /// The header of so many items.
    fn header(&mut self, kind: Kind, len: usize) -> Written {
        let len = short(len)?;
        let kind = match (self.headers, kind) {
            (Headers::Lenient, Kind::List) => Kind::Set,
            (Headers::Lenient, Kind::Map) => Kind::Fields,
            _ => kind,
        };
        let [long, longest] = match kind {
            Kind::Set => [Marker::Array16, Marker::Array32],
            Kind::Map => [Marker::Map16, Marker::Map32],
            Kind::List => return encode::write_array_len(self.bytes, len).map_err(refused).map(drop),
            Kind::Fields => return encode::write_map_len(self.bytes, len).map_err(refused).map(drop),
        };
        match u16::try_from(len) {
            Ok(few @ ..16) => {
                self.bytes.push(long.to_u8());
                self.bytes.extend_from_slice(&few.to_be_bytes());
            }
            _ => {
                self.bytes.push(longest.to_u8());
                self.bytes.extend_from_slice(&len.to_be_bytes());
            }
        }
        Ok(())
    }

    /// Writes a part of a value.
    fn part<T: Serialize + ?Sized>(&mut self, part: &T) -> Written {
        self.type_name = type_name::<T>;
        part.serialize(self)
    }

    fn items(&mut self, kind: Kind, len: Option<usize>) -> Result<Items<'_, 'a>, FormatError> {
        self.depth.enter()?;
        let at = self.bytes.len();
        if let Some(len) = len {
            self.header(kind, len)?;
        }
        Ok(Items {
            writer: self,
            kind,
            announced: len,
            at,
            written: 0,
        })
    }

    /// A map of one entry: the variant of an enum and what is in it.
    fn variant(&mut self, name: &'static str) -> Written {
        self.depth.enter()?;
        self.header(Kind::Map, 1)?;
        ser::Serializer::serialize_str(self, name)
    }
}

fn short(len: usize) -> Result<u32, FormatError> {
    u32::try_from(len).map_err(|_| FormatError::new("it has more than 4,294,967,295 items"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Set,
    Map,
    Fields,
}

/// The items of an array or the entries of a map, on their way.
struct Items<'w, 'a> {
    writer: &'w mut Writer<'a>,
    kind: Kind,
    /// `None`: their number is known at the end only.
    announced: Option<usize>,
    /// Where they begin.
    at: usize,
    written: usize,
}

impl Items<'_, '_> {
    fn item<T: Serialize + ?Sized>(&mut self, item: &T) -> Written {
        self.written += 1;
        self.writer.part(item)
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.writer.part(value)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Written {
        self.item(name)?;
        self.value(value)
    }

    /// `above`: how many levels end here.
    fn done(self, above: u32) -> Written {
        let Self {
            writer,
            kind,
            announced,
            at,
            written,
        } = self;
        writer.depth.leave(above);
        match announced {
            Some(len) if len == written => Ok(()),
            Some(len) => Err(FormatError::new(format!(
                "its `Serialize` announced {len} items and wrote {written}"
            ))),
            None => {
                let items = writer.bytes.split_off(at);
                writer.header(kind, written)?;
                writer.bytes.extend_from_slice(&items);
                Ok(())
            }
        }
    }
}

/// Whether these bytes would be read as `None`.
fn is_nothing(bytes: &[u8]) -> bool {
    let marker = bytes.first().map(|byte| Marker::from_u8(*byte));
    match marker {
        Some(Marker::Null) => true,
        Some(Marker::FixExt1 | Marker::FixExt2 | Marker::FixExt4 | Marker::FixExt8 | Marker::FixExt16) => {
            bytes.get(1) == Some(&SOME.cast_unsigned())
        }
        Some(Marker::Ext8) => bytes.get(2) == Some(&SOME.cast_unsigned()),
        Some(Marker::Ext16) => bytes.get(3) == Some(&SOME.cast_unsigned()),
        Some(Marker::Ext32) => bytes.get(5) == Some(&SOME.cast_unsigned()),
        _ => false,
    }
}

impl<'w, 'a> ser::Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = FormatError;
    type SerializeSeq = Items<'w, 'a>;
    type SerializeTuple = Items<'w, 'a>;
    type SerializeTupleStruct = Items<'w, 'a>;
    type SerializeTupleVariant = Items<'w, 'a>;
    type SerializeMap = Items<'w, 'a>;
    type SerializeStruct = Items<'w, 'a>;
    type SerializeStructVariant = Items<'w, 'a>;

    fn is_human_readable(&self) -> bool {
        self.form == Form::Readable
    }

    fn serialize_bool(self, value: bool) -> Written {
        encode::write_bool(self.bytes, value).map_err(refused)
    }

    fn serialize_i8(self, value: i8) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Written {
        encode::write_sint(self.bytes, value).map_err(refused).map(drop)
    }

    fn serialize_i128(self, value: i128) -> Written {
        match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => self.serialize_u64(value),
            (_, Ok(value)) => self.serialize_i64(value),
            _ => self.serialize_bytes(&value.to_be_bytes()),
        }
    }

    fn serialize_u8(self, value: u8) -> Written {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Written {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Written {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Written {
        encode::write_uint(self.bytes, value).map_err(refused).map(drop)
    }

    fn serialize_u128(self, value: u128) -> Written {
        match u64::try_from(value) {
            Ok(value) => self.serialize_u64(value),
            Err(_) => self.serialize_bytes(&value.to_be_bytes()),
        }
    }

    fn serialize_f32(self, value: f32) -> Written {
        encode::write_f32(self.bytes, value).map_err(refused)
    }

    fn serialize_f64(self, value: f64) -> Written {
        encode::write_f64(self.bytes, value).map_err(refused)
    }

    fn serialize_char(self, value: char) -> Written {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Written {
        let len = short(value.len())?;
        if std::mem::replace(&mut self.tells, true) {
            return encode::write_str(self.bytes, value).map_err(refused);
        }
        self.bytes.push(Marker::Str32.to_u8());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Written {
        short(value.len())?;
        encode::write_bin(self.bytes, value).map_err(refused)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        self.depth.enter()?;
        let at = self.bytes.len();
        self.part(value)?;
        self.depth.leave(1);
        if is_nothing(&self.bytes[at..]) {
            let value = self.bytes.split_off(at);
            encode::write_ext_meta(self.bytes, short(value.len())?, SOME).map_err(refused)?;
            self.bytes.extend_from_slice(&value);
        }
        Ok(())
    }

    fn serialize_unit(self) -> Written {
        encode::write_nil(self.bytes).map_err(refused)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.header(Kind::List, 0)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        self.part(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        self.variant(variant)?;
        self.part(value)?;
        self.depth.leave(1);
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'w, 'a>, FormatError> {
        let kind = match is_set((self.type_name)()) {
            true => Kind::Set,
            false => Kind::List,
        };
        self.items(kind, len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Items<'w, 'a>, FormatError> {
        self.items(Kind::List, Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items<'w, 'a>, FormatError> {
        self.items(Kind::List, Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'w, 'a>, FormatError> {
        self.variant(variant)?;
        self.items(Kind::List, Some(len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Items<'w, 'a>, FormatError> {
        // That is how serde writes a struct with flattened fields. It does not say which of them are left out.
        self.leaves_out |= len.is_none();
        self.items(Kind::Map, len)
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Items<'w, 'a>, FormatError> {
        self.items(Kind::Fields, Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'w, 'a>, FormatError> {
        self.variant(variant)?;
        self.items(Kind::Fields, Some(len))
    }
}

impl ser::SerializeSeq for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.item(value)
    }

    fn end(self) -> Written {
        self.done(1)
    }
}

impl ser::SerializeTuple for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.item(value)
    }

    fn end(self) -> Written {
        self.done(1)
    }
}

impl ser::SerializeTupleStruct for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.item(value)
    }

    fn end(self) -> Written {
        self.done(1)
    }
}

impl ser::SerializeTupleVariant for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.item(value)
    }

    fn end(self) -> Written {
        self.done(2)
    }
}

impl ser::SerializeMap for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        self.item(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        self.value(value)
    }

    fn end(self) -> Written {
        self.done(1)
    }
}

impl ser::SerializeStruct for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Written {
        self.field(key, value)
    }

    fn skip_field(&mut self, _: &'static str) -> Written {
        self.writer.leaves_out = true;
        Ok(())
    }

    fn end(self) -> Written {
        self.done(1)
    }
}

impl ser::SerializeStructVariant for Items<'_, '_> {
    type Ok = ();
    type Error = FormatError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Written {
        self.field(key, value)
    }

    fn skip_field(&mut self, _: &'static str) -> Written {
        self.writer.leaves_out = true;
        Ok(())
    }

    fn end(self) -> Written {
        self.done(2)
    }
}
