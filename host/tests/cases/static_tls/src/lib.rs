//! Has thread-locals of the executable's model. Serves `static_tls:*`; any event replies `{"byte":0}`.
#![allow(unsafe_code, reason = "what C leaves behind cannot be had safely")]

use bennu_plugin::prelude::*;

unsafe extern "C" {
    fn first_byte() -> u8;
}

#[derive(Default, Serialize, Deserialize)]
struct Member;

impl Channel for Member {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, _: &mut Context) -> Handled {
        // SAFETY: the function takes nothing, and reads what is the thread's own.
        Ok(Reply::ok_with(json!({ "byte": unsafe { first_byte() } })))
    }
}

export_plugin!(Member);
