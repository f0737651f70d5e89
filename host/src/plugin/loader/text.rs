//! What a plugin writes about an error.

use bennu_plugin::abi::{Bytes, Writer};

/// How much of an error's text is kept.
const MAX_BYTES: usize = 64 * 1024;

/// Collects text; what is beyond 64 KiB is cut off.
#[derive(Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// Lends this to one call.
    pub(super) fn writer(&mut self) -> Writer {
        Writer {
            cx: (&raw mut self.0).cast(),
            write,
        }
    }

    /// What was written. What is not UTF-8 is replaced.
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Appends to the [`Text`] behind `cx`.
unsafe extern "C" fn write(cx: *mut (), bytes: Bytes) {
    // SAFETY: `cx` is from `Text::writer`; the plugin calls this during the call that it was lent to, on its thread.
    let text = unsafe { &mut *cx.cast::<Vec<u8>>() };
    // SAFETY: lent by the plugin for this call.
    let bytes = unsafe { bytes.as_slice() };
    let room = MAX_BYTES.saturating_sub(text.len());
    text.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
