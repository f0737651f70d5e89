//! Collects what is wrong with a configuration while it is read.

use std::cell::RefCell;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Source, Span};

/// The mistakes and warnings so far.
pub(super) struct Mistakes {
    source: Arc<Source>,
    found: RefCell<Vec<Diagnostic>>,
}

impl Mistakes {
    pub(super) fn new(source: &Arc<Source>) -> Self {
        Self {
            source: Arc::clone(source),
            found: RefCell::default(),
        }
    }

    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    pub(super) fn error(&self, at: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.source, at, message)
    }

    pub(super) fn warning(&self, at: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(&self.source, at, message)
    }

    /// All of them, in file order.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(Diagnostic::position);
        found
    }
}
