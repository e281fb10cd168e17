//! Functions on all else: JSON, arrays, blobs and maps.

use std::sync::Arc;

use rhai::{Array, Blob, Dynamic, FuncRegistration, ImmutableString, Map, Module, NativeCallContext};

use super::super::FaultKind;
use super::super::convert::{self, ConvertError};
use super::super::encode::{self, EncodeError};
use super::super::watch::{Stop, Watch};
use super::{Raised, array_too_long, check_items, check_string, string_too_long};

/// Adds the overrides.
pub(super) fn register(module: &mut Module, watch: &Arc<Watch>) {
    json(module, watch);
    growing(module, watch);
}

fn json(module: &mut Module, watch: &Arc<Watch>) {
    let writer = watch.clone();
    let watch = watch.clone();
    module.set_native_fn(
        "parse_json",
        move |ctx: NativeCallContext, text: &str| -> Result<Dynamic, Raised> {
            convert::from_json(text.as_bytes()).map_err(|why| match why {
                ConvertError::Memory => watch.stop(&ctx, Stop::Fault(FaultKind::Memory)),
                ConvertError::Json(why) => format!("parse_json: {why}").into(),
            })
        },
    );
    let of_map = writer.clone();
    let to_json = FuncRegistration::new("to_json").with_purity(true);
    to_json.set_into_module(module, move |ctx: NativeCallContext, map: &mut Map| {
        // Lent, not copied: it may be most of the memory there is.
        let value = Dynamic::from_map(std::mem::take(map));
        let text = write(&ctx, &of_map, &value);
        *map = value.try_cast().unwrap_or_default();
        text
    });
    let to_json = FuncRegistration::new("to_json").with_purity(true);
    to_json.set_into_module(module, move |ctx: NativeCallContext, value: &mut Dynamic| {
        write(&ctx, &writer, value)
    });
}

fn write(ctx: &NativeCallContext, watch: &Watch, value: &Dynamic) -> Result<ImmutableString, Raised> {
    let text = encode::to_json(value, ctx.engine().max_string_size()).map_err(|why| -> Raised {
        match why {
            EncodeError::Size(_) => string_too_long(),
            EncodeError::Memory => watch.stop(ctx, Stop::Fault(FaultKind::Memory)),
            EncodeError::Depth | EncodeError::Kind(_) => format!("to_json: the value {why}").into(),
        }
    })?;
    // The encoder copies valid strings and adds ASCII; the lossy way costs nothing then.
    Ok(String::from_utf8_lossy(&text).into_owned().into())
}

fn growing(module: &mut Module, watch: &Arc<Watch>) {
    let watch = watch.clone();
    let pad =
        move |ctx: NativeCallContext, array: &mut Array, length: i64, item: Dynamic| -> Result<(), Raised> {
            let Ok(length) = usize::try_from(length) else { return Ok(()) };
            check_items(&ctx, length)?;
            while array.len() < length {
                array.push(item.clone());
                watch.check(&ctx)?;
            }
            Ok(())
        };
    module.set_native_fn("pad", pad);
    module.set_native_fn(
        "pad",
        |ctx: NativeCallContext, blob: &mut Blob, length: i64, byte: i64| -> Result<(), Raised> {
            let Ok(length) = usize::try_from(length) else { return Ok(()) };
            check_items(&ctx, length)?;
            if length > blob.len() {
                blob.resize(length, u8::try_from(byte & 0xff).unwrap_or(0));
            }
            Ok(())
        },
    );
    let to_array = FuncRegistration::new("to_array").with_purity(true);
    to_array.set_into_module(module, |ctx: NativeCallContext, blob: &mut Blob| -> Result<Array, Raised> {
        check_items(&ctx, blob.len())?;
        Ok(blob.iter().map(|byte| Dynamic::from(i64::from(*byte))).collect())
    });
    let keys = FuncRegistration::new("keys").with_purity(true);
    keys.set_into_module(module, |ctx: NativeCallContext, map: &mut Map| -> Result<Array, Raised> {
        if map.len() > ctx.engine().max_array_size() {
            return Err(array_too_long());
        }
        check_string(&ctx, map.keys().map(|key| key.len()).sum())?;
        Ok(map.keys().map(|key| Dynamic::from(ImmutableString::from(key.as_str()))).collect())
    });
}
