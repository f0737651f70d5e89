//! Has a function of its own called when the process exits. Serves `exit_hook:*`; any event sets the hook, and replies ok.
#![allow(unsafe_code, reason = "what C leaves behind cannot be had safely")]

use std::ffi::{c_int, c_void};
use std::ptr;

use bennu_plugin::prelude::*;

unsafe extern "C" {
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

extern "C" fn hook(_: c_int, _: *mut c_void) {}

#[derive(Default, Serialize, Deserialize)]
struct Member;

impl Channel for Member {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, _: &mut Context) -> Handled {
        // SAFETY: the function is there as long as the library, which the host keeps for it.
        unsafe { on_exit(hook, ptr::null_mut()) };
        Ok(Reply::ok())
    }
}

export_plugin!(Member);
