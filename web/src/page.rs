//! Lists in parts: `?limit=` and an opaque `?cursor=`, which the part before gave.

use std::str::FromStr;

use farshore_actors::control::view;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Problem, RequestFault};

/// Items in a part, where the request does not say.
pub const LIMIT_DEFAULT: usize = 100;
/// Most items in a part. Chosen: a part of points of 256 disks each stays well below a control message's limit.
pub const LIMIT_MAX: usize = 500;

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// `next_cursor` of the part before.
    pub cursor: Option<String>,
    /// Most items, 1 to 500; 100 where nothing is said.
    pub limit: Option<usize>,
}

impl PageQuery {
    /// Most items.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
            limit => Err(Problem::of(
                RequestFault::Malformed,
                format!("query: limit {limit} does not lie in 1 to {LIMIT_MAX}"),
            )),
        }
    }

    /// Where the part begins.
    pub fn cursor<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        let Some(text) = &self.cursor else { return Ok(None) };
        let bad = |_| Problem::of(RequestFault::Malformed, "query: the cursor is not one that this list gave");
        text.parse().map(Some).map_err(bad)
    }
}

/// A part of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Ask for the next part with it; null: this is the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Shows each item of a part.
    pub fn of<V>(page: view::Page<V>, show: impl FnMut(V) -> T) -> Self {
        Self { items: page.items.into_iter().map(show).collect(), next_cursor: page.next }
    }
}
