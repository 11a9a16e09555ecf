//! The methods of `io.mcr.Control`. Each is declared once, in `table`: its parameters, its reply, the right that a call
//! takes and its share of the daemon's loop. Everything else follows from the declaration:
//!
//! ```text
//!   client                                                 server
//!   Client::call(&Method) ── parameters() ──▶ Request::read(name, parameters) ──▶ Request::dispatch ──▶ Handle<Method>
//!                         ◀────────────────────────── Method::Reply ◀───────────────────────────────┘
//! ```
//!
//! - `table`: the declarations;
//! - [`parameter`]: how a parameter is read and written, and the types that only parameters have.

use std::fmt::Debug;

use crate::message::{CallError, Parameters, ReplyBody};

pub mod parameter;
mod table;
#[cfg(test)]
mod tests;

pub use self::table::*;

/// What a client may do, or has to be allowed to do for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nothing.
    Nothing,
    /// Read everything but payload.
    Read,
    /// Change the running config and log levels, save to the startup file.
    Change,
    /// Act as root or as the daemon itself: name files that the daemon writes or runs.
    Own,
}

/// How much of the daemon's loop a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Little, whatever the config.
    Light,
    /// The more, the larger the config: such calls get a fair share of the loop.
    Heavy,
}

/// A method: the value holds the parameters of a call.
pub trait Method: Clone + Debug + Send + Sized + 'static {
    /// The name with the interface.
    const NAME: &'static str;
    /// What every call takes; [`Self::owner_parameter`] may take more.
    const RIGHT: Right;
    /// The weight, unless the parameters decide; see [`Self::weight`].
    const WEIGHT: Weight;
    /// A parameter is a config text, so that a call may be as long as a config file.
    const CARRIES_CONFIG: bool = false;
    /// Called with `more`, it replies again and again.
    const REPEATS: bool = false;
    /// What a successful reply holds.
    type Reply: ReplyBody;

    /// Takes the parameters out of those of a call.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`] names one that is missing, unknown, or has a wrong type or value.
    fn read(parameters: &mut Parameters) -> Result<Self, CallError>;

    /// The parameters as they stand in a call.
    fn parameters(&self) -> Result<Parameters, serde_json::Error>;

    /// The parameter for which this call takes [`Right::Own`], if there is one.
    fn owner_parameter(&self) -> Option<&'static str> {
        None
    }

    /// How much of the daemon's loop this call takes.
    fn weight(&self) -> Weight {
        Self::WEIGHT
    }
}

/// What the table says of a method.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// [`Method::NAME`].
    pub name: &'static str,
    /// [`Method::RIGHT`].
    pub right: Right,
    /// [`Method::CARRIES_CONFIG`].
    pub carries_config: bool,
}

/// A server: how it keeps a call until its reply.
pub trait Service {
    /// A call whose method is not known to the type.
    type Pending;
    /// A call of a method: takes the reply of this method only.
    type Call<M: Method>: From<Self::Pending>;
}

/// A server's handler for one method.
pub trait Handle<M: Method>: Service {
    /// Answers a call, at once or later.
    fn handle(&mut self, parameters: M, call: Self::Call<M>);
}
