//! The kit of one namespace: its functions, and what is to be read about them.

use std::sync::Arc;

use rhai::{
    Dynamic, Engine, FuncRegistration, Module, NativeCallContext, Position, RhaiFunc, RhaiNativeFunc, Variant,
};

use super::super::watch::Watch;
use super::Raised;
use super::page;
use crate::model::Chapter;

/// Registers a function with the doc comment before its signature as its page:
///
/// ```text
/// offer!(
///     kit,
///     /// Gives the larger of two numbers.
///     ///
///     /// Limits: none.
///     ///
///     /// ```rhai
///     /// demo::larger(1, 2) // => 2
///     /// ```
///     "demo::larger(a, b)",
///     |a: i64, b: i64| a.max(b)
/// );
/// ```
///
/// What examples say is described at [`Example`](crate::model::Example).
macro_rules! offer {
    ($kit:expr, $(#[doc = $line:literal])+ $signature:literal, $function:expr $(,)?) => {
        $kit.add($signature, concat!($($line, "\n"),+), $function)
    };
}
pub(super) use offer;

/// One namespace in the making.
pub(super) struct Kit {
    namespace: &'static str,
    about: &'static str,
    module: Module,
    watch: Arc<Watch>,
    pages: Vec<(&'static str, &'static str)>,
    /// The name of each function registered, overloads included.
    names: Vec<&'static str>,
}

impl Kit {
    /// An empty namespace; an empty name is for functions that are called without one. `about` says in a sentence what
    /// it is for.
    pub(super) fn new(namespace: &'static str, about: &'static str, watch: &Arc<Watch>) -> Kit {
        let (module, watch) = (Module::new(), watch.clone());
        Kit { namespace, about, module, watch, pages: Vec::new(), names: Vec::new() }
    }

    /// The run that the functions work for; to be moved into them.
    pub(super) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Registers a function and its page. [`offer!`] makes `doc` of a doc comment.
    pub(super) fn add<A: 'static, const N: usize, const X: bool, R, const F: bool>(
        &mut self,
        signature: &'static str,
        doc: &'static str,
        function: impl RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    ) where
        R: Variant + Clone,
    {
        self.pages.push((signature, doc));
        self.also(page::name_in(self.namespace, signature), function);
    }

    /// Registers a further form of the function `name`, which has a page: other types, or fewer arguments.
    pub(super) fn also<A: 'static, const N: usize, const X: bool, R, const F: bool, Native>(
        &mut self,
        name: &'static str,
        function: Native,
    ) where
        R: Variant + Clone,
        Native: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
    {
        self.names.push(name);
        // Pure: it does not change its first argument, which may then be a constant such as `request`.
        let function = placed(function.into_rhai_function(true, true));
        FuncRegistration::new(name).set_into_module_raw(&mut self.module, Native::param_types(), function);
    }

    /// Hands the functions to an engine.
    pub(super) fn furnish(self, engine: &mut Engine) {
        if self.namespace.is_empty() {
            engine.register_global_module(self.module.into());
        } else {
            engine.register_static_module(self.namespace, self.module.into());
        }
    }

    /// What is to be read about the namespace.
    pub(super) fn chapter(&self) -> Chapter {
        let pages = self.pages.iter().map(|(signature, doc)| page::parse(self.namespace, signature, doc));
        Chapter { name: self.namespace, about: self.about, pages: pages.collect() }
    }

    /// The names of all functions, overloads included, and how many the module really has.
    #[cfg(test)]
    pub(super) fn functions(&self) -> (&[&'static str], usize) {
        (&self.names, self.module.count().1)
    }
}

/// The function itself, but its errors have the place of the call: the interpreter gives it to those of functions
/// without a namespace only.
fn placed(function: RhaiFunc) -> RhaiFunc {
    match function {
        RhaiFunc::Pure { func, has_context, is_pure, is_volatile } => {
            RhaiFunc::Pure { func: placing(func, has_context), has_context: true, is_pure, is_volatile }
        }
        RhaiFunc::Method { func, has_context, is_pure, is_volatile } => {
            RhaiFunc::Method { func: placing(func, has_context), has_context: true, is_pure, is_volatile }
        }
        other => other,
    }
}

/// A function as the interpreter calls it.
type Called = dyn Fn(Option<NativeCallContext>, &mut [&mut Dynamic]) -> Result<Dynamic, Raised> + Send + Sync;

fn placing(function: Arc<Called>, has_context: bool) -> Arc<Called> {
    Arc::new(move |ctx: Option<NativeCallContext>, args: &mut [&mut Dynamic]| {
        let place = ctx.as_ref().map_or(Position::NONE, NativeCallContext::call_position);
        let done = function(ctx.filter(|_| has_context), args);
        done.map_err(|mut error| {
            if error.position().is_none() {
                error.set_position(place);
            }
            error
        })
    })
}
