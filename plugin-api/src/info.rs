//! What the host says about the clients of a shard. Members whose clients are alike share it: for example those of one route
//! without socket ids.

use std::rc::Rc;

use crate::payload::read_json;
use crate::wire::MemberInfo;

/// Reads what the host says about a client.
#[derive(Default)]
pub(crate) struct Infos {
    /// The last one: most often the next is the same.
    last: Option<(Box<[u8]>, Rc<MemberInfo>)>,
}

impl Infos {
    /// `None` if the host says nothing. If it cannot be read, the host is at fault.
    pub(crate) fn read(&mut self, json: &[u8]) -> Result<Option<Rc<MemberInfo>>, String> {
        if json.is_empty() {
            return Ok(None);
        }
        if let Some((last, info)) = &self.last
            && **last == *json
        {
            return Ok(Some(Rc::clone(info)));
        }
        let info =
            read_json(json).map_err(|error| format!("the host sent invalid info about a client: {}", error.message))?;
        let info = Rc::new(info);
        self.last = Some((json.into(), Rc::clone(&info)));
        Ok(Some(info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_alike_share_their_info() {
        let mut infos = Infos::default();
        let mut read = |json: &str| infos.read(json.as_bytes()).expect("readable");
        let (ann, bob) = (read(r#"{"route":{}}"#), read(r#"{"route":{}}"#));
        assert!(ann.zip(bob).is_some_and(|(ann, bob)| Rc::ptr_eq(&ann, &bob)));
        assert_eq!(
            read(r#"{"socket_id":"x"}"#)
                .and_then(|info| info.socket_id.clone())
                .as_deref(),
            Some("x")
        );
        assert!(read("").is_none());
    }
}
