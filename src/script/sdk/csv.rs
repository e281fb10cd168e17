//! `csv::…`: tables as text (RFC 4180), and back.

use std::sync::Arc;

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, StringRecord, Terminator, WriterBuilder};
use rhai::{Array, Dynamic, ImmutableString, Map, NativeCallContext};

use super::super::encode;
use super::super::guards::check_string;
use super::super::watch::Watch;
use super::given::{shown, step};
use super::options::Options;
use super::{Kit, Raised, offer, wrong};

const PARSE: &str = "csv::parse";
const STRINGIFY: &str = "csv::stringify";

/// What a field must not begin with, lest a spreadsheet takes it for a formula.
const FORMULA_STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit = Kit::new("csv", "Tables as comma-separated text, and back.", watch);
    parsing(&mut kit);
    writing(&mut kit);
    kit
}

fn parsing(kit: &mut Kit) {
    let (plain, chosen) = (kit.watch(), kit.watch());
    offer!(
        kit,
        /// Reads a table (RFC 4180): an array with a map for each row, by the names in the first line. With
        /// `header: false` it gives an array of arrays, the first line among them. `delimiter` is `","` if not given.
        /// All values are texts.
        ///
        /// Limits: all rows must be as long as the first; with names, as many fields in all as a map may have entries
        /// (`max_map_entries`), without as an array may have items (`max_array_items`).
        ///
        /// ```rhai
        /// csv::parse("name,age\nAda,36\n\"Lovelace, A.\",\"\"") // => [{"name":"Ada","age":"36"},{"name":"Lovelace, A.","age":""}]
        /// ```
        /// ```rhai
        /// csv::parse("a;b\n1;2", #{ header: false, delimiter: ";" }) // => [["a","b"],["1","2"]]
        /// ```
        /// ```rhai
        /// csv::parse("a,b\n1") // throws: csv::parse: line 2 has 1 fields, and the first line 2
        /// ```
        "csv::parse(text[, options])",
        move |ctx: NativeCallContext, text: &str| parse(&ctx, &plain, text, &Map::new())
    );
    kit.also("parse", move |ctx: NativeCallContext, text: &str, options: Map| {
        parse(&ctx, &chosen, text, &options)
    });
}

fn writing(kit: &mut Kit) {
    let (plain, chosen) = (kit.watch(), kit.watch());
    offer!(
        kit,
        /// Writes rows as a table (RFC 4180, lines end with CR LF). Rows are arrays, or maps: then the first line
        /// has the names of the first row's fields, sorted, or those of the option `columns`, in that order; what
        /// else is in a row is then left out. `header: false` leaves the first line out. `delimiter` is `","` if not
        /// given. Values are texts, numbers, bools or `()`, which is empty.
        ///
        /// With `escape_formulas: true` texts that begin with `=`, `+`, `-`, `@`, a tab or a CR get a `'` before
        /// them: use it for tables of what strangers wrote that somebody may open in a spreadsheet.
        ///
        /// Limits: the result is at most as long as a text may be.
        ///
        /// ```rhai
        /// csv::stringify([#{ name: "Ada", age: 36 }, #{ name: "A \"B\", C", age: () }]) // => "age,name\r\n36,Ada\r\n,\"A \"\"B\"\", C\"\r\n"
        /// ```
        /// ```rhai
        /// csv::stringify([["=1+1", -1]], #{ escape_formulas: true, delimiter: ";" }) // => "'=1+1;-1\r\n"
        /// ```
        /// ```rhai
        /// csv::stringify([#{ a: 1 }, #{ b: 2 }]) // throws: csv::stringify: row 2 has a field "b" that the first row has not
        /// ```
        "csv::stringify(rows[, options])",
        move |ctx: NativeCallContext, rows: Array| stringify(&ctx, &plain, &rows, &Map::new())
    );
    kit.also("stringify", move |ctx: NativeCallContext, rows: Array, options: Map| {
        stringify(&ctx, &chosen, &rows, &options)
    });
}

fn parse(ctx: &NativeCallContext, watch: &Watch, text: &str, options: &Map) -> Result<Array, Raised> {
    watch.check(ctx)?;
    let options = Options::of(PARSE, options, &["header", "delimiter"])?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        ReaderBuilder::new().has_headers(false).delimiter(delimiter(&options)?).from_reader(text.as_bytes());
    if options.flag("header")?.unwrap_or(true) {
        named_rows(ctx, watch, &mut reader)
    } else {
        plain_rows(ctx, watch, &mut reader)
    }
}

fn named_rows(ctx: &NativeCallContext, watch: &Watch, reader: &mut Reader<&[u8]>) -> Result<Array, Raised> {
    let mut names = StringRecord::new();
    if !read(reader, &mut names)? {
        return Ok(Array::new());
    }
    for (at, name) in names.iter().enumerate() {
        step(ctx, watch)?;
        // Of few names the search is short; of many it is the run's time, which each step looks at.
        if names.iter().take(at).any(|other| other == name) {
            return Err(wrong(PARSE, format!("the first line has {} twice", shown(name))));
        }
    }
    let mut rows = Array::new();
    let mut row = StringRecord::new();
    let mut fields = 0_usize;
    while read(reader, &mut row)? {
        fields += names.len();
        check_fields(fields, ctx.engine().max_map_size(), "max_map_entries")?;
        let mut map = Map::new();
        for (name, field) in names.iter().zip(row.iter()) {
            step(ctx, watch)?;
            map.insert(name.into(), field.into());
        }
        rows.push(Dynamic::from_map(map));
    }
    Ok(rows)
}

fn plain_rows(ctx: &NativeCallContext, watch: &Watch, reader: &mut Reader<&[u8]>) -> Result<Array, Raised> {
    let mut rows = Array::new();
    let mut row = StringRecord::new();
    let mut items = 0_usize;
    while read(reader, &mut row)? {
        items += row.len() + 1;
        check_fields(items, ctx.engine().max_array_size(), "max_array_items")?;
        let mut array = Array::with_capacity(row.len());
        for field in row.iter() {
            step(ctx, watch)?;
            array.push(field.into());
        }
        rows.push(Dynamic::from_array(array));
    }
    Ok(rows)
}

fn check_fields(fields: usize, most: usize, limit: &str) -> Result<(), Raised> {
    if fields <= most {
        return Ok(());
    }
    Err(wrong(PARSE, format!("the table has more fields than {limit}, {most}, allows")))
}

fn read(reader: &mut Reader<&[u8]>, row: &mut StringRecord) -> Result<bool, Raised> {
    reader.read_record(row).map_err(|why| match why.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            wrong(PARSE, format!("line {line} has {len} fields, and the first line {expected_len}"))
        }
        _ => wrong(PARSE, why),
    })
}

fn delimiter(options: &Options) -> Result<u8, Raised> {
    let one = |value: &Dynamic| {
        let text = value.as_immutable_string_ref().ok()?;
        let [byte] = text.as_bytes() else { return None };
        // What quotes, and what ends lines, cannot separate fields besides.
        (byte.is_ascii() && !matches!(*byte, b'"' | b'\r' | b'\n' | 0)).then_some(*byte)
    };
    let read = options.read("delimiter", "one ASCII character other than a quote or a line break", one)?;
    Ok(read.unwrap_or(b','))
}

fn stringify(
    ctx: &NativeCallContext,
    watch: &Watch,
    rows: &Array,
    options: &Map,
) -> Result<ImmutableString, Raised> {
    watch.check(ctx)?;
    let known = ["header", "delimiter", "columns", "escape_formulas"];
    let options = Options::of(STRINGIFY, options, &known)?;
    let columns = Columns::of(rows, &options)?;
    let escapes = options.flag("escape_formulas")?.unwrap_or(false);
    let mut writer = WriterBuilder::new()
        .delimiter(delimiter(&options)?)
        .terminator(Terminator::CRLF)
        .flexible(true)
        .buffer_capacity(1024)
        .from_writer(Vec::new());
    let mut record = ByteRecord::new();
    let header =
        columns.names.iter().filter(|_| options.flag("header").is_ok_and(|wish| wish != Some(false)));
    header.for_each(|name| push_text(&mut record, name, escapes));
    for at in 0..=rows.len() {
        // The header first, if there is one; a row without fields is a line without anything.
        if at > 0 {
            record.clear();
            columns.fill(ctx, watch, &mut record, at, &rows[at - 1], escapes)?;
        }
        if at > 0 || !record.is_empty() {
            writer.write_byte_record(&record).map_err(|why| wrong(STRINGIFY, why))?;
            writer.flush().map_err(|why| wrong(STRINGIFY, why))?;
            check_string(ctx, writer.get_ref().len())?;
        }
    }
    let bytes = writer.into_inner().map_err(|_| wrong(STRINGIFY, "the table could not be written"))?;
    Ok(String::from_utf8(bytes).map_err(|why| wrong(STRINGIFY, why))?.into())
}

/// Which fields of maps are written.
struct Columns {
    names: Vec<ImmutableString>,
    /// Whether the script chose them, so that a row may have more.
    chosen: bool,
}

impl Columns {
    fn of(rows: &Array, options: &Options) -> Result<Columns, Raised> {
        options.flag("header")?;
        let texts = |value: &Dynamic| {
            let names = value.as_array_ref().ok()?;
            names.iter().map(|name| name.as_immutable_string_ref().ok().map(|name| name.clone())).collect()
        };
        if let Some(names) = options.read("columns", "an array of texts", texts)? {
            return Ok(Columns { names, chosen: true });
        }
        let first = rows.first().and_then(|row| row.as_map_ref().ok());
        let names = first.map_or_else(Vec::new, |row| row.keys().map(|name| name.as_str().into()).collect());
        Ok(Columns { names, chosen: false })
    }

    /// The fields of row `number`, which counts from 1.
    fn fill(
        &self,
        ctx: &NativeCallContext,
        watch: &Watch,
        record: &mut ByteRecord,
        number: usize,
        row: &Dynamic,
        escapes: bool,
    ) -> Result<(), Raised> {
        if let Ok(array) = row.as_array_ref() {
            for value in array.iter() {
                step(ctx, watch)?;
                push(record, number, value, escapes)?;
            }
            return Ok(());
        }
        let Ok(map) = row.as_map_ref() else {
            let kind = encode::kind_of(row);
            return Err(wrong(
                STRINGIFY,
                format!("row {number} is a {kind}, and neither an array nor a map"),
            ));
        };
        if !self.chosen
            && let Some(name) = map.keys().find(|name| !self.names.iter().any(|known| known == name.as_str()))
        {
            let name = shown(name);
            let why = format!("row {number} has a field {name} that the first row has not; name the columns");
            return Err(wrong(STRINGIFY, why));
        }
        for name in &self.names {
            step(ctx, watch)?;
            push(record, number, map.get(name.as_str()).unwrap_or(&Dynamic::UNIT), escapes)?;
        }
        Ok(())
    }
}

fn push(record: &mut ByteRecord, number: usize, value: &Dynamic, escapes: bool) -> Result<(), Raised> {
    if value.is_unit() {
        record.push_field(b"");
    } else if let Ok(text) = value.as_immutable_string_ref() {
        push_text(record, &text, escapes);
    } else if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
        record.push_field(value.to_string().as_bytes());
    } else {
        let kind = encode::kind_of(value);
        let why = format!("row {number} holds a {kind}; fields are texts, numbers, bools or ()");
        return Err(wrong(STRINGIFY, why));
    }
    Ok(())
}

fn push_text(record: &mut ByteRecord, text: &str, escapes: bool) {
    if escapes && text.starts_with(FORMULA_STARTS) {
        record.push_field(format!("'{text}").as_bytes());
    } else {
        record.push_field(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::FaultKind;
    use super::super::super::testing::{fails, gives, quoted};

    #[test]
    fn tables_are_read() {
        gives("csv::parse(\"\")", "[]");
        gives("csv::parse(\"a,b\\n\")", "[]");
        gives("csv::parse(\"\\ufeffa\\r\\n1\\r\\n\\r\\n2\")", r#"[{"a":"1"},{"a":"2"}]"#);
        gives("csv::parse(\"\\\"a\\nb\\\"\\n\\\"\\\"\\\"\\\"\")", r#"[{"a\nb":"\""}]"#);
        gives("csv::parse(\"\\\"open\", #{ header: false })", r#"[["open"]]"#);
        gives("csv::parse(\"a\\tb\", #{ header: false, delimiter: \"\\t\" })", r#"[["a","b"]]"#);
        fails("csv::parse(\"a,a\\n1,2\")", FaultKind::Runtime, "the first line has \"a\" twice");
        for bad in ["\"\"", "\",,\"", "\"\\\"\"", "\"\\n\"", "\"ü\"", "1"] {
            let source = format!("csv::parse(\"\", #{{ delimiter: {bad} }})");
            fails(&source, FaultKind::Runtime, "the option delimiter must be one ASCII character");
        }
        fails("csv::parse(\"\", #{ headers: true })", FaultKind::Runtime, "there is no option \"headers\"");
    }

    #[test]
    fn tables_are_bounded() {
        let long = "let s = \"a\\n\"; s.pad(20_000, \"1\\n\"); ";
        let said = "the table has more fields than max_map_entries, 5000, allows";
        fails(&format!("{long} csv::parse(s)"), FaultKind::Runtime, said);
        let said = "the table has more fields than max_array_items, 10000, allows";
        fails(&format!("{long} csv::parse(s, #{{ header: false }})"), FaultKind::Runtime, said);
        let wide = "let s = \"x\"; s.pad(250_000, ','); ";
        fails(&format!("{wide} csv::parse(s)"), FaultKind::Runtime, "the first line has \"\" twice");
        let many = "let s = \"x\"; s.pad(20_000, 'y'); let a = []; for i in 0..12 { a.push([s]); }";
        gives(&format!("{many} csv::stringify(a).len"), "240024");
        let quotes = "let s = \"x\"; s.pad(200_000, '\"');";
        fails(&format!("{quotes} csv::stringify([[s]])"), FaultKind::Runtime, "longer than 262144 bytes");
    }

    #[test]
    fn tables_are_written() {
        gives("csv::stringify([])", "\"\"");
        gives("csv::stringify([], #{ columns: [\"b\", \"a\"] })", r#""b,a\r\n""#);
        let row = "[#{ a: 1.5, b: true, c: 'x' }]";
        gives(&format!("csv::stringify({row}, #{{ columns: [\"b\", \"z\"] }})"), r#""b,z\r\ntrue,\r\n""#);
        gives(&format!("csv::stringify({row}, #{{ header: false }})"), r#""1.5,true,x\r\n""#);
        gives("csv::stringify([[], [\"\"], [1, 2]])", r#""\"\"\r\n\"\"\r\n1,2\r\n""#);
        fails("csv::stringify([1])", FaultKind::Runtime, "row 1 is a i64");
        fails("csv::stringify([[#{}]])", FaultKind::Runtime, "row 1 holds a map");
        fails("csv::stringify([], #{ columns: 1 })", FaultKind::Runtime, "an array of texts");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn tables_go_round_and_noise_only_fails(rows in prop::collection::vec(prop::collection::vec("[a-c,\"\r\n ]{0,5}", 2), 1..5), noise in "[ab,\"\r\n]{0,30}") {
            let rows = serde_json::to_string(&rows).unwrap();
            let source = format!("csv::parse(csv::stringify(json::parse({})), #{{ header: false }})", quoted(&rows));
            gives(&source, &rows);
            gives(&format!("try {{ csv::parse({}); }} catch {{ }} 1", quoted(&noise)), "1");
        }
    }
}
