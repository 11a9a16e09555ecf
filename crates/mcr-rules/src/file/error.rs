//! Errors, and how they are collected and located.

pub use crate::error::{ConfigError, Location};
use crate::limits::MAX_ERRORS;
use crate::name::NameError;
use crate::path::Path;

/// A position in the text, in bytes; `None` if there is no text.
pub(super) type Place = Option<u32>;

/// The errors found so far.
#[derive(Default)]
pub(super) struct Findings {
    list: Vec<(Place, ConfigError)>,
    omitted: usize,
}

impl Findings {
    pub(super) fn add(
        &mut self,
        place: Place,
        path: &Path<'_>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let message = message.into();
        self.push(
            place,
            path,
            ConfigError { location: None, path: String::new(), message, hint, long_name: None },
        );
    }

    /// A text that is not the name of an interface.
    pub(super) fn add_interface(&mut self, place: Place, path: &Path<'_>, text: &str, error: &NameError) {
        self.push(place, path, ConfigError::interface_name(text, error));
    }

    fn push(&mut self, place: Place, path: &Path<'_>, error: ConfigError) {
        if self.list.len() < MAX_ERRORS {
            self.list.push((place, ConfigError { path: path.to_string(), ..error }));
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The errors in order of place, with their lines and columns in `text`.
    pub(super) fn into_errors(mut self, text: Option<&str>) -> Vec<ConfigError> {
        self.list.sort_by_key(|(place, _)| *place);
        let mut locator = text.map(Locator::new);
        let mut errors: Vec<ConfigError> = self
            .list
            .into_iter()
            .map(|(place, mut error)| {
                error.location = place.and_then(|place| Some(locator.as_mut()?.locate(place)));
                error
            })
            .collect();
        if self.omitted > 0 {
            let message = format!("{} more errors are not shown", self.omitted);
            errors.push(ConfigError {
                location: None,
                path: String::new(),
                message,
                hint: None,
                long_name: None,
            });
        }
        errors
    }
}

/// Converts rising positions into lines and columns in one pass over the text.
pub(super) struct Locator<'t> {
    rest: std::iter::Peekable<std::str::CharIndices<'t>>,
    location: Location,
}

impl<'t> Locator<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text.char_indices().peekable(), location: Location { line: 1, column: 1 } }
    }

    pub(super) fn locate(&mut self, place: u32) -> Location {
        while let Some((_, c)) = self.rest.next_if(|(offset, _)| *offset < place as usize) {
            let between_cr_and_lf = c == '\r' && self.rest.peek().is_some_and(|(_, next)| *next == '\n');
            if json5::char::is_json5_line_terminator(c) && !between_cr_and_lf {
                self.location.line += 1;
                self.location.column = 1;
            } else if !between_cr_and_lf {
                self.location.column += 1;
            }
        }
        self.location
    }
}
