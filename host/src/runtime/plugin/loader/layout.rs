//! Compares the layouts that host and plugin have for the structs of the contract, and describes the difference in one line.

use std::fmt;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    AbiInstability, AbiInstabilityError, AbiInstabilityErrors, ExpectedFound, check_layout_compatibility,
};
use abi_stable::library::LibHeader;
use abi_stable::type_layout::{TLFieldOrFunction, TypeLayout};
use bennu_plugin::abi::ModuleRef;

/// How the plugin's contract differs from the host's.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}; rebuild it with this host's bennu-plugin")]
pub(crate) struct LayoutError {
    /// Struct, field, expected, found.
    pub(crate) line: String,
    /// The whole report, several hundred lines.
    pub(crate) report: String,
}

impl fmt::Debug for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayoutError")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// Compares the root modules, and all that can be reached from them.
///
/// Keeps pointers into the library until the process ends.
pub(super) fn compare(header: &'static LibHeader) -> Result<(), LayoutError> {
    let Some(layout) = header.layout() else {
        let line = "the library has no information about its layout".to_owned();
        return Err(LayoutError {
            report: line.clone(),
            line,
        });
    };
    check_layout_compatibility(ModuleRef::LAYOUT, layout).map_err(|errors| LayoutError {
        line: line(&errors),
        report: errors.to_string(),
    })
}

/// The innermost difference, from which all others follow.
fn line(errors: &AbiInstabilityErrors) -> String {
    let deepest = errors.errors.iter().max_by_key(|error| error.stack_trace.len());
    deepest.map_or_else(|| "the layouts differ".to_owned(), describe)
}

/// The clearest difference in one struct.
fn describe(error: &AbiInstabilityError) -> String {
    let place = Place::of(error);
    let mut told: Vec<(u8, String)> = error.errs.iter().map(|error| place.tell(error)).collect();
    told.sort();
    told.into_iter()
        .next()
        .map_or_else(|| format!("`{}` differs", place.inner), |(_, line)| line)
}

/// Where two layouts differ.
struct Place {
    /// The struct or function that contains the difference.
    inner: String,
    /// The struct or function that contains `inner`, and in which field.
    outer: Option<(String, String)>,
    /// The layouts that the two sides have for `inner`.
    layouts: Option<ExpectedFound<&'static TypeLayout>>,
}

impl Place {
    fn of(error: &AbiInstabilityError) -> Self {
        let Some((last, before)) = error.stack_trace.split_last() else {
            return Self {
                inner: ModuleRef::LAYOUT.name().to_owned(),
                outer: None,
                layouts: None,
            };
        };
        let holder = before
            .last()
            .map_or_else(|| ModuleRef::LAYOUT.name().to_owned(), |entry| inner(&entry.expected));
        Self {
            inner: inner(&last.expected),
            outer: Some((holder, name(&last.expected))),
            layouts: match (last.expected, last.found) {
                (TLFieldOrFunction::Field(expected), TLFieldOrFunction::Field(found)) => Some(ExpectedFound {
                    expected: expected.layout(),
                    found: found.layout(),
                }),
                _ => None,
            },
        }
    }

    /// One line about one difference, and its rank: the lower, the clearer.
    fn tell(&self, error: &AbiInstability) -> (u8, String) {
        use AbiInstability as A;
        let of_inner = |what: &str| format!("{what} of `{}`", self.inner);
        let of_field = || format!("the type of {}", self.field());
        match error {
            A::UnexpectedField(v) => (0, differs(&of_inner("a field"), v.expected.name(), v.found.name())),
            A::FieldCountMismatch(v) => (1, self.count(v)),
            A::Name(v) => (1, differs(&of_field(), v.expected, v.found)),
            A::MismatchedPrimitive(v) => (1, differs(&of_field(), debug(&v.expected), debug(&v.found))),
            A::Package(v) => (1, differs(&of_inner("the package"), v.expected, v.found)),
            A::PackageVersion(v) => (2, differs(&of_inner("the package version"), v.expected, v.found)),
            A::MismatchedPrefixSize(v) => (3, differs(&of_inner("the first fields"), v.expected, v.found)),
            A::FnQualifierMismatch(_) => (3, format!("`{}` is `unsafe` on one side only", self.inner)),
            A::Size(v) => (3, differs(&of_inner("the size"), v.expected, v.found)),
            A::Alignment(v) => (4, differs(&of_inner("the alignment"), v.expected, v.found)),
            other => (
                9,
                format!(
                    "`{}`: {}",
                    self.inner,
                    debug(other).chars().take(200).collect::<String>()
                ),
            ),
        }
    }

    /// The field that leads to the difference.
    fn field(&self) -> String {
        self.outer
            .as_ref()
            .map_or_else(|| self.inner.clone(), |(holder, field)| format!("`{holder}.{field}`"))
    }

    /// Names the first field that only one side has.
    fn count(&self, v: &ExpectedFound<usize>) -> String {
        let layouts = self.layouts.as_ref();
        let longer = layouts.map(|both| {
            if v.found > v.expected {
                both.found
            } else {
                both.expected
            }
        });
        let extra = longer
            .and_then(|layout| layout.get_fields())
            .and_then(|fields| fields.iter().nth(v.expected.min(v.found)));
        match extra {
            Some(field) if v.found > v.expected => {
                differs(&format!("a field of `{}`", self.inner), "none", field.name())
            }
            Some(field) => differs(&format!("a field of `{}`", self.inner), field.name(), "none"),
            None => differs(
                &format!("the number of fields or parameters of `{}`", self.inner),
                v.expected,
                v.found,
            ),
        }
    }
}

fn differs(what: &str, expected: impl fmt::Display, found: impl fmt::Display) -> String {
    format!("{what}: expected {expected}, found {found}")
}

fn debug(value: &impl fmt::Debug) -> String {
    super::one_line(&format!("{value:?}"))
}

fn inner(entry: &TLFieldOrFunction) -> String {
    match entry {
        TLFieldOrFunction::Field(field) => field.layout().name().to_owned(),
        TLFieldOrFunction::Function(function) => function.name.to_string(),
    }
}

fn name(entry: &TLFieldOrFunction) -> String {
    match entry {
        TLFieldOrFunction::Field(field) => field.name().to_owned(),
        TLFieldOrFunction::Function(function) => function.name.to_string(),
    }
}
