//! Sources into programs. Compiling is bounded: a source of 64 KiB cannot exhaust the stack or the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rhai::{AST, Engine, OptimizationLevel, Token};

use crate::model::ScriptSource;

use super::alloc::Meter;
use super::context::{self, Names};

/// Deepest nesting of expressions and blocks, at the top level and in functions. Both the compiler and the interpreter
/// recurse along it.
const EXPRESSION_DEPTH_MAX: usize = 64;
/// The same within functions, which nest in calls besides.
const FUNCTION_EXPRESSION_DEPTH_MAX: usize = 32;

/// A compiled source, immutable and shared between benches.
#[derive(Debug)]
pub struct Program {
    pub(super) ast: AST,
    pub(super) names: Names,
    bytes: usize,
}

impl Program {
    /// About how many bytes this holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Why a source is no program, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// What is wrong, place included.
    pub message: String,
    /// Line, from 1; 0 where unknown.
    pub line: usize,
    /// Column, from 1; 0 where unknown.
    pub column: usize,
}

/// Compiles a source. Needs up to a few hundred KiB of stack; any thread will do.
pub fn compile(source: &ScriptSource) -> Result<Program, CompileError> {
    let meter = Meter::begin();
    let mut engine = Engine::new_raw();
    restrict(&mut engine);
    let is_defined = Arc::new(AtomicBool::new(false));
    let seen = is_defined.clone();
    #[allow(deprecated, reason = "not deprecated, says the interpreter, but marked because it may change")]
    engine.on_def_var(move |_, info, _| {
        seen.fetch_or(context::is_given(info.name()), Ordering::Relaxed);
        Ok(true)
    });
    free_names(&mut engine);
    let text = source.as_str();
    let ast = engine.compile(text).map_err(|error| {
        let position = error.position();
        CompileError {
            message: error.to_string(),
            line: position.line().unwrap_or(0),
            column: position.position().unwrap_or(0),
        }
    })?;
    drop(engine);
    let names = Names::of(text, &ast, is_defined.load(Ordering::Relaxed));
    drop(is_defined);
    let bytes = usize::try_from(meter.net_bytes()).unwrap_or(0) + size_of::<Program>();
    Ok(Program { ast, names, bytes })
}

/// Words that the language reserves without using them. They are good names for the fields of a JSON: `event.new`.
const UNUSED_WORDS: [&str; 26] = [
    "async",
    "await",
    "case",
    "default",
    "go",
    "goto",
    "is",
    "match",
    "module",
    "new",
    "nil",
    "null",
    "package",
    "protected",
    "public",
    "shared",
    "spawn",
    "static",
    "super",
    "sync",
    "thread",
    "use",
    "var",
    "void",
    "with",
    "yield",
];

/// Lets `log::debug` and `run::call` be names, and `event.new`: alone, they are reserved words of the language, and
/// stay so.
fn free_names(engine: &mut Engine) {
    let (in_namespace, in_value) = (AtomicBool::new(false), AtomicBool::new(false));
    #[allow(deprecated, reason = "not deprecated, says the interpreter, but marked because it may change")]
    engine.on_parse_token(move |token, _, _| {
        let of_namespace = in_namespace.swap(matches!(token, Token::DoubleColon), Ordering::Relaxed);
        let of_value = in_value.swap(matches!(token, Token::Period | Token::Elvis), Ordering::Relaxed);
        match token {
            Token::Reserved(word)
                if of_namespace && ["debug", "call"].contains(&word.as_str())
                    || of_value && UNUSED_WORDS.contains(&word.as_str()) =>
            {
                Token::Identifier(word)
            }
            other => other,
        }
    });
}

/// What holds for every engine, at compile time and at run time.
pub(super) fn restrict(engine: &mut Engine) {
    engine
        // The optimiser is quadratic, and would run native functions before the budgets are in place.
        .set_optimization_level(OptimizationLevel::None)
        .disable_symbol("eval")
        .disable_symbol("import")
        .disable_symbol("export")
        .set_max_expr_depths(EXPRESSION_DEPTH_MAX, FUNCTION_EXPRESSION_DEPTH_MAX)
        .set_max_functions(500)
        .set_max_variables(500)
        .set_max_modules(0);
}
