//! `ctx` and `request`: what a script is given, section 1.5 of the contract.
//!
//! Both are plain object maps, made only for scripts that name them. At the top level of a program they are constants
//! in its scope and read in place. In functions, and in programs whose closures capture them, each mention is a copy:
//! a shared value instead would be locked while `request.body.items.map(|i| request.params.n)` runs, and fail.

use rhai::{AST, Dynamic, EvalAltResult, Map, Scope};

use crate::model::{Kind, Row};

use super::convert;
use super::watch::Stop;

/// The name of the request's map.
pub(super) const REQUEST: &str = "request";
/// The name of the map of everything.
pub(super) const CTX: &str = "ctx";
/// Entries of the two.
const CTX_FIELDS: usize = 13;
const REQUEST_FIELDS: usize = 7;

/// Marks the maps that scripts are given, so that a captured copy is told from a script's own variable.
pub(super) const GIVEN_TAG: i32 = 0x5069;

/// Which of the two a program names, and how it may be given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) ctx: bool,
    pub(super) request: bool,
    /// A closure captures one of them, so that they must not stand in the scope: capturing would make them shared.
    pub(super) captured: bool,
    /// The program has a variable or a parameter by one of the names.
    pub(super) reused: bool,
}

impl Names {
    /// Looks at a program. A mention in a comment counts too; it costs a microsecond and harms nothing.
    pub(super) fn of(source: &str, ast: &AST, is_defined: bool) -> Names {
        let (mut captured, mut reused) = (false, is_defined);
        for function in ast.iter_functions() {
            if function.params.iter().any(|name| is_given(name)) {
                // What a closure captures comes as a parameter of the function it is compiled to.
                let is_closure = function.name.starts_with("anon$");
                captured |= is_closure;
                reused |= !is_closure;
            }
        }
        Names { ctx: mentions(source, CTX), request: mentions(source, REQUEST), captured, reused }
    }
}

/// Whether this is one of the two.
pub(super) fn is_given(name: &str) -> bool {
    name == REQUEST || name == CTX
}

/// Whether `name` stands in `source` as a variable, that is, not as part of a longer name and not after a dot.
fn mentions(source: &str, name: &str) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = source[at + name.len()..].chars().next();
        let part =
            |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        !part(before) && !part(after) && before != Some('.')
    })
}

/// `request` for a row.
pub(super) fn request(row: &Row) -> Result<Map, Stop> {
    let request = &row.request;
    let body =
        convert::body(&request.body).map_err(|why| Stop::Full(format!("the request's body: {why}")))?;
    let texts = |pairs: &[(String, String)]| -> Map {
        pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
    };
    let mut map = Map::new();
    map.insert("method".into(), request.method.as_str().into());
    map.insert("path".into(), request.path.as_str().into());
    map.insert("headers".into(), texts(&request.headers).into());
    map.insert("body".into(), body);
    map.insert("params".into(), texts(&request.params).into());
    map.insert("query".into(), convert::pairs(&request.query).into());
    map.insert("rest".into(), request.rest.as_str().into());
    Ok(map)
}

/// `ctx` for a row, but for its `request`.
pub(super) fn ctx(row: &Row) -> Result<Map, Stop> {
    let principal = row.principal.as_ref().map_or(Dynamic::UNIT, |principal| {
        let mut map = Map::new();
        map.insert("id".into(), principal.key_id.to_string().into());
        map.insert("name".into(), principal.name.as_str().into());
        map.into()
    });
    let mut map = Map::new();
    map.insert("execution_id".into(), row.execution_id.to_string().into());
    map.insert("request_id".into(), row.request_id.as_str().into());
    map.insert("script_id".into(), row.script_id.to_string().into());
    map.insert("script_name".into(), row.script_name.as_str().into());
    map.insert("invocation".into(), row.kind.as_str().into());
    map.insert("app_id".into(), row.app_id.to_string().into());
    map.insert("principal".into(), principal);
    map.insert("trigger_depth".into(), i64::from(row.trigger_depth).into());
    map.insert("root_execution_id".into(), row.root_execution_id.to_string().into());
    map.insert("is_dead_letter_handler".into(), handles_dead_letters(row.kind).into());
    map.insert("attempt".into(), i64::from(row.attempt()).into());
    map.insert("event".into(), event(row)?);
    Ok(map)
}

/// What happened. A message's payload is not kept twice: it is the request's body.
fn event(row: &Row) -> Result<Dynamic, Stop> {
    let Some(bytes) = &row.event else { return Ok(Dynamic::UNIT) };
    let full = |why: convert::ConvertError| Stop::Full(format!("ctx.event: {why}"));
    let mut event = convert::from_json(bytes).map_err(full)?;
    if row.kind == Kind::Queue
        && let Ok(mut map) = event.as_map_mut()
    {
        map.insert("payload".into(), convert::body(&row.request.body).map_err(full)?);
    }
    Ok(event)
}

/// Refuses a run that added to `ctx` or `request`. The interpreter itself refuses changes of what was there.
pub(super) fn check_unchanged(scope: &Scope) -> Result<(), Box<EvalAltResult>> {
    for (name, fields) in [(CTX, CTX_FIELDS), (REQUEST, REQUEST_FIELDS)] {
        let is_changed = |value: &Dynamic| value.as_map_ref().is_ok_and(|map| map.len() != fields);
        if scope.get(name).is_some_and(is_changed) && scope.is_constant(name) == Some(true) {
            let message = format!("{name} cannot be changed; copy it first: let copy = {name};");
            return Err(EvalAltResult::ErrorSystem(String::new(), message.into()).into());
        }
    }
    Ok(())
}

fn handles_dead_letters(kind: Kind) -> bool {
    match kind {
        Kind::DeadLetter => true,
        Kind::Http | Kind::Admin | Kind::Kv | Kind::Cron | Kind::Queue | Kind::Startup => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_variables_only() {
        for (source, found) in [
            ("request.body", true),
            ("`${request}`", true),
            ("ctx.request", false),
            ("my_request + requests", false),
            ("f(request)", true),
            ("", false),
        ] {
            assert_eq!(mentions(source, REQUEST), found, "{source}");
        }
    }
}
