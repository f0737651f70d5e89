//! Leaves in the process what libraries in C leave there. Serves `leaves:*`; each event leaves what it is called after, and replies ok:
//! `thread`, `named_thread`, `busy_thread`, `handler` (of the signal `number`), `interval_timer`, `timer`, `exit_function`,
//! `hanging_destructor`, `memory` (of `number` bytes), `closed_output` (it closes the descriptors 1 and 2),
//! `folder` (the process goes to the root folder), `file` (an open one).
//!
//! With the setting `init` it does so in its `init`, where `refuse` behind it (`thread refuse`) has that fail.
#![allow(unsafe_code, reason = "what C leaves behind cannot be had safely")]

use std::ffi::c_int;

use bennu_plugin::prelude::*;

unsafe extern "C" {
    fn leave_thread();
    fn leave_named_thread();
    fn leave_busy_thread();
    fn leave_handler(signal: c_int);
    fn leave_interval_timer();
    fn leave_timer();
    fn leave_exit_function();
    fn leave_hanging_destructor();
    fn leave_memory(bytes: usize);
    fn leave_closed_output();
    fn leave_folder();
    fn leave_file();
}

/// What it takes under `settings`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    init: String,
    number: usize,
}

struct Leaves;

impl Plugin for Leaves {
    type Settings = Settings;

    fn init(settings: Settings) -> Result<Self, String> {
        let (what, refuse) = settings.init.split_once(' ').unwrap_or((&settings.init, ""));
        leave(what, settings.number);
        if refuse.is_empty() {
            Ok(Self)
        } else {
            Err("refused on request".to_owned())
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    number: usize,
}

#[derive(Default, Serialize, Deserialize)]
struct Member;

impl Channel<Leaves> for Member {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context<Leaves>) -> Join<Self> {
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload<'_>, _: &mut Context<Leaves>) -> Handled {
        let Asked { number } = payload.parse()?;
        if leave(event, number) {
            Ok(Reply::ok())
        } else {
            Ok(Reply::unhandled())
        }
    }
}

/// Leaves something; `false`: it is called otherwise.
fn leave(what: &str, number: usize) -> bool {
    // SAFETY: each function leaves something that stays valid as long as the library is loaded, and touches nothing else.
    unsafe {
        match what {
            "thread" => leave_thread(),
            "named_thread" => leave_named_thread(),
            "busy_thread" => leave_busy_thread(),
            "handler" => leave_handler(c_int::try_from(number).unwrap_or_default()),
            "interval_timer" => leave_interval_timer(),
            "timer" => leave_timer(),
            "exit_function" => leave_exit_function(),
            "hanging_destructor" => leave_hanging_destructor(),
            "memory" => leave_memory(number),
            "closed_output" => leave_closed_output(),
            "folder" => leave_folder(),
            "file" => leave_file(),
            _ => return false,
        }
    }
    true
}

export_plugin!(Member, plugin = Leaves);
