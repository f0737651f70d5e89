//! Needs a library that lies in the folder `helpers` beside it. Serves `companion:*`; any event replies `{"answer":n}`, the version of
//! that library.
#![allow(unsafe_code, reason = "what C leaves behind cannot be had safely")]

use bennu_plugin::prelude::*;

unsafe extern "C" {
    fn answer() -> i32;
}

#[derive(Default, Serialize, Deserialize)]
struct Member;

impl Channel for Member {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
        Join::accept(Self)
    }

    fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, _: &mut Context) -> Handled {
        // SAFETY: the function takes nothing and touches nothing.
        Ok(Reply::ok_with(json!({ "answer": unsafe { answer() } })))
    }
}

export_plugin!(Member);
