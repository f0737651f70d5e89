//! A text with the claims of a token in it: `user:{sub}`.

use serde_json::{Map, Value};

/// A template, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(String),
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// A `{` without its `}`.
    #[error("a `{{` is not closed")]
    Open,
    /// A `}` without its `{`.
    #[error("a `}}` has no `{{` before it")]
    Close,
    /// `{}`
    #[error("`{{}}` names no claim")]
    Unnamed,
    /// All clients would have one socket id.
    #[error("it names no claim, so all clients would get the same id")]
    Constant,
}

impl Template {
    /// Reads a template. `{NAME}` stands for the claim NAME, or, if NAME has dots, for a claim inside of others.
    ///
    /// # Errors
    ///
    /// If a brace is open or empty, or no claim is named.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let (claim, behind) = behind.split_once('}').ok_or(TemplateError::Open)?;
            if claim.contains('{') {
                return Err(TemplateError::Open);
            }
            if claim.is_empty() {
                return Err(TemplateError::Unnamed);
            }
            parts.push(Part::text(before)?);
            parts.push(Part::Claim(claim.to_owned()));
            rest = behind;
        }
        if parts.is_empty() && !rest.contains('}') {
            return Err(TemplateError::Constant);
        }
        parts.push(Part::text(rest)?);
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }

    /// The text for these claims.
    ///
    /// # Errors
    ///
    /// The name of a claim that is missing, empty, or neither a text nor a whole number.
    pub(crate) fn render(&self, claims: &Map<String, Value>) -> Result<String, &str> {
        let mut rendered = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Claim(name) => match claim(claims, name) {
                    Some(Value::String(text)) if !text.is_empty() => rendered.push_str(text),
                    Some(Value::Number(number)) if !number.is_f64() => rendered.push_str(&number.to_string()),
                    _ => return Err(name),
                },
            }
        }
        Ok(rendered)
    }
}

impl Part {
    fn text(text: &str) -> Result<Self, TemplateError> {
        if text.contains('}') {
            return Err(TemplateError::Close);
        }
        Ok(Self::Text(text.to_owned()))
    }
}

/// A claim by its whole name, which may have dots, or else by its path.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        claim(claims.get(outer)?.as_object()?, inner)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(template: &str, claims: Value, expected: Result<&str, &str>) {
        let template = Template::parse(template).expect("a template");
        let claims = claims.as_object().expect("an object").clone();
        assert_eq!(template.render(&claims).as_deref(), expected.as_ref().copied());
    }

    #[test]
    fn claims_take_the_places_of_their_names() {
        check("user:{sub}", json!({ "sub": "7" }), Ok("user:7"));
        check("user:{sub}", json!({ "sub": 7 }), Ok("user:7"));
        check("{org}/{sub}!", json!({ "org": "a", "sub": "b" }), Ok("a/b!"));
        check("{app.user.id}", json!({ "app": { "user": { "id": 1 } } }), Ok("1"));
        check(
            "{app.user}",
            json!({ "app.user": "x", "app": { "user": "y" } }),
            Ok("x"),
        );
    }

    #[test]
    fn a_claim_that_is_no_name_is_named() {
        for claims in [
            json!({}),
            json!({ "sub": "" }),
            json!({ "sub": null }),
            json!({ "sub": 1.5 }),
            json!({ "sub": ["7"] }),
            json!({ "sub": true }),
        ] {
            check("user:{sub}", claims, Err("sub"));
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, error) in [
            ("user:{sub", TemplateError::Open),
            ("user:{{sub}}", TemplateError::Open),
            ("user:sub}", TemplateError::Close),
            ("{a}}", TemplateError::Close),
            ("user:{}", TemplateError::Unnamed),
            ("user", TemplateError::Constant),
            ("", TemplateError::Constant),
        ] {
            assert_eq!(Template::parse(text), Err(error), "{text}");
        }
    }
}
