//! What is known of the clients of a shard. Members whose clients are alike, as those of one route without socket ids are,
//! share it.

use std::rc::Rc;

use crate::payload::read_json;
use crate::wire::MemberInfo;

/// Reads what the host sends of a client.
#[derive(Default)]
pub(crate) struct Infos {
    /// The one that came last; the next is most often the same.
    last: Option<(Box<[u8]>, Rc<MemberInfo>)>,
}

impl Infos {
    /// `None` if there is nothing to know. What cannot be read is the host's fault, and its text is the error.
    pub(crate) fn read(&mut self, json: &[u8]) -> Result<Option<Rc<MemberInfo>>, String> {
        if json.is_empty() {
            return Ok(None);
        }
        if let Some((last, info)) = &self.last
            && **last == *json
        {
            return Ok(Some(Rc::clone(info)));
        }
        let info = read_json(json).map_err(|error| format!("info of a client: {}", error.message))?;
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
