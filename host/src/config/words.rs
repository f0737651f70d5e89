//! Lists of names, and the name that a writer most likely meant.

/// ``did you mean `room`?``, or all names that there are.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(best) => format!("did you mean `{best}`?"),
        None => format!("known: {}", listed(known)),
    }
}

/// The name that was most likely meant.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const NEAR: f64 = 0.8;
    let near = known.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
    let (nearness, best) = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearness >= NEAR).then_some(best)
}

/// `` `a`, `b` and `c` ``
pub(super) fn listed(names: &[&str]) -> String {
    const MOST: usize = 20;
    match names {
        [] => "none".to_owned(),
        [one] => format!("`{one}`"),
        [most @ .., last] if names.len() <= MOST => format!("`{}` and `{last}`", most.join("`, `")),
        _ => format!("`{}` and {} more", names[..MOST].join("`, `"), names.len() - MOST),
    }
}
