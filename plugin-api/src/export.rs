//! [`export_plugin!`](crate::export_plugin), and its expansion.
//!
//! A library exports one symbol: the header by which abi_stable finds the [`Module`](crate::abi::Module). The [`Manifest`] has a
//! section of its own. An author's crate does not depend on abi_stable, so it cannot use abi_stable's attribute for the header: the
//! macro writes the same static itself.

use crate::channel::Channel;
use crate::manifest::{INTERCEPTS_LEN, Manifest};
use crate::plugin::Plugin;

pub use abi_stable::library::LibHeader;

pub use crate::channel::NoChannel;
pub use crate::connect::NoConnect;
pub use crate::glue::Entry;
pub use crate::manifest::flags;
pub use crate::settings::{Described, NoSchema, Of, Schema, Undescribed};

/// The manifest of a plugin that serves channels `C`.
#[must_use]
pub const fn manifest<C: Channel<P>, P: Plugin>(name: &str, version: &str, flags: u32) -> Manifest {
    let mut manifest = Manifest::new(name, version, flags);
    manifest.state_version = C::STATE_VERSION;
    manifest.reads_from = C::READS_FROM;
    manifest.reads_to = C::READS_TO;
    manifest.intercepts = joined(C::INTERCEPTS);
    assert!(
        C::READS_FROM <= C::STATE_VERSION && C::STATE_VERSION <= C::READS_TO,
        "READS_FROM <= STATE_VERSION <= READS_TO"
    );
    manifest
}

/// `events` joined by newlines. If they are too long together, the plugin does not compile.
const fn joined(events: &[&str]) -> [u8; INTERCEPTS_LEN] {
    let mut out = [0; INTERCEPTS_LEN];
    let (mut at, mut index) = (0, 0);
    while index < events.len() {
        if index > 0 {
            out[at] = b'\n';
            at += 1;
        }
        let event = events[index].as_bytes();
        let mut byte = 0;
        while byte < event.len() {
            assert!(
                event[byte] != b'\n' && event[byte] != 0,
                "the name of an event must not contain a newline or a zero"
            );
            assert!(
                at < INTERCEPTS_LEN - 2,
                "the names of intercepted events are too long together"
            );
            out[at] = event[byte];
            at += 1;
            byte += 1;
        }
        index += 1;
    }
    out
}

/// Makes a crate of type `cdylib` a plugin. Call it once, in `lib.rs`, with the types of the plugin:
///
/// ```text
/// export_plugin!(Member);                                     // a channel
/// export_plugin!(Member, plugin = Settings);                  // … with settings, or a value made from settings
/// export_plugin!(Member, connect = Gate);                     // … with a connect handler
/// export_plugin!(Member, plugin = Settings, connect = Gate);
/// export_plugin!(connect = Gate);                             // a connect handler alone
/// export_plugin!(connect = Gate, plugin = Settings);
/// ```
///
/// `Member` is a [`Channel`], `Gate` a [`Connect`](crate::Connect), `Settings` a [`Plugin`]. The plugin takes its name and its
/// version from the crate. The macro works under `#![forbid(unsafe_code)]`.
#[macro_export]
macro_rules! export_plugin {
    (connect = $connect:ty $(, plugin = $plugin:ty)? $(,)?) => {
        $crate::__export_plugin!([] [$($plugin)?] [$connect]);
    };
    ($channel:ty $(, plugin = $plugin:ty)? $(, connect = $connect:ty)? $(,)?) => {
        $crate::__export_plugin!([$channel] [$($plugin)?] [$($connect)?]);
    };
}

/// Lets the [test kit](crate::test) run a plugin that the crate does not export, for example an old version. It takes the same
/// arguments as [`export_plugin!`](crate::export_plugin), which does this for the plugin that it exports.
#[macro_export]
macro_rules! test_plugin {
    (connect = $connect:ty $(, plugin = $plugin:ty)? $(,)?) => {
        $crate::__test_plugin!([] [$($plugin)?] [$connect]);
    };
    ($channel:ty $(, plugin = $plugin:ty)? $(, connect = $connect:ty)? $(,)?) => {
        $crate::__test_plugin!([$channel] [$($plugin)?] [$($connect)?]);
    };
}

/// The second step of [`export_plugin!`](crate::export_plugin): what a library exports.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_plugin {
    ([$($channel:ty)?] [$($plugin:ty)?] [$($connect:ty)?]) => {
        $crate::__test_plugin!([$($channel)?] [$($plugin)?] [$($connect)?]);

        const _: () = {
            type Channel = $crate::__first!($($channel,)? $crate::export::NoChannel,);
            type Plugin = $crate::__first!($($plugin,)? $crate::NoSettings,);
            type Connect = $crate::__first!($($connect,)? $crate::export::NoConnect,);

            #[used]
            #[unsafe(link_section = ".bennu.plugin")]
            static MANIFEST: $crate::manifest::Manifest =
                $crate::__manifest!([$($channel)?] [$($plugin)?] [$($connect)?]);

            // The name that abi_stable looks for, `ROOT_MODULE_LOADER_NAME`.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::export::LibHeader =
                $crate::export::Entry::<Channel, Connect, Plugin, __BennuSettings>::header();

            /// Knows the schema of the settings. No author has a type of this name.
            struct __BennuSettings;

            impl $crate::export::Schema for __BennuSettings {
                fn json() -> ::core::option::Option<::std::string::String> {
                    #[allow(unused_imports, reason = "one of them answers")]
                    use $crate::export::{Described as _, Undescribed as _};
                    (&$crate::export::Of::<<Plugin as $crate::Plugin>::Settings>::IT).json()
                }
            }
        };
    };
}

/// The second step of [`test_plugin!`](crate::test_plugin).
#[doc(hidden)]
#[macro_export]
macro_rules! __test_plugin {
    ([$($channel:ty)?] [$($plugin:ty)?] [$($connect:ty)?]) => {
        const _: () = {
            type Channel = $crate::__first!($($channel,)? $crate::export::NoChannel,);
            type Plugin = $crate::__first!($($plugin,)? $crate::NoSettings,);
            type Connect = $crate::__first!($($connect,)? $crate::export::NoConnect,);

            impl $crate::test::Exported for $crate::__first!($($channel,)? $($connect,)?) {
                fn code() -> $crate::test::Code {
                    const MANIFEST: $crate::manifest::Manifest =
                        $crate::__manifest!([$($channel)?] [$($plugin)?] [$($connect)?]);
                    $crate::test::Code::new($crate::export::Entry::<Channel, Connect, Plugin>::ROOT, MANIFEST)
                }
            }
        };
    };
}

/// The manifest. `Channel` and `Plugin` must be types in scope.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    ([$($channel:ty)?] [$($plugin:ty)?] [$($connect:ty)?]) => {
        $crate::export::manifest::<Channel, Plugin>(
            ::core::env!("CARGO_PKG_NAME"),
            ::core::env!("CARGO_PKG_VERSION"),
            (if ::core::cfg!(panic = "unwind") { $crate::export::flags::UNWINDS } else { 0 })
                $(| $crate::__flag!(CHANNEL, $channel))?
                $(| $crate::__flag!(CONNECT, $connect))?
                $(| $crate::__flag!(SETTINGS, $plugin))?,
        )
    };
}

/// The first of some types.
#[doc(hidden)]
#[macro_export]
macro_rules! __first {
    ($first:ty, $($rest:ty,)*) => {
        $first
    };
}

/// A flag of the manifest, for a type that the plugin has.
#[doc(hidden)]
#[macro_export]
macro_rules! __flag {
    ($flag:ident, $there:ty) => {
        $crate::export::flags::$flag
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_name_that_abi_stable_looks_for() {
        let source = include_str!("export.rs");
        let name = abi_stable::library::ROOT_MODULE_LOADER_NAME;
        assert!(source.contains(&format!("export_name = \"{name}\"")), "{name}");
    }

    #[test]
    fn intercepted_events_are_joined_by_newlines() {
        let bytes = joined(&["new_msg", "typing"]);
        assert!(bytes.starts_with(b"new_msg\ntyping\0"));
        assert_eq!(joined(&[]), [0; INTERCEPTS_LEN]);
    }
}
