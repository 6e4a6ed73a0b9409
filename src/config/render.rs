//! Writes `config/octet.toml` and `docs/configuration.md` from the settings.

use super::Settings;
use super::load::variable_of_key;

/// `config/octet.toml`: every setting, commented out, at its default.
pub fn template_file() -> String {
    let mut out = String::from(
        "# Octet's settings. Every line that starts with \"#name =\" shows a default; remove the # to change it.\n\
         # Stronger than this file: variables (OCTET_SERVER_PORT), and flags (--port, --set server.port=...).\n\
         # Written by the tests from src/config/sections.rs: OCTET_BLESS=1 cargo test --release settings\n",
    );
    for section in Settings::default().sections() {
        out.push('\n');
        wrap(&section.doc(), 116).for_each(|line| out += &format!("# {line}\n"));
        out += &format!("[{}]\n", section.name());
        for setting in section.settings() {
            let (_, name) = setting.key.split_once('.').expect("a key has a section");
            out.push('\n');
            wrap(&setting.doc, 116).for_each(|line| out += &format!("# {line}\n"));
            let unit = setting.unit();
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            out += &format!("# Allowed: {}{unit}\n#{name} = {}\n", setting.allowed, setting.default);
        }
    }
    out += "\n# The models to serve. The first one that offers a task is the default for it. Without any, the two shipped\n\
            # ones are served. A path is a folder, the name of a folder in engine.models_dir, or a hub id like \"org/name\".\n\
            #[[models]]\n#id = \"sentiment\"\n#path = \"sentiment\"\n";
    out
}

/// `docs/configuration.md`: every setting in a table.
pub fn reference_page() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Written by the tests from src/config/sections.rs: OCTET_BLESS=1 cargo test --release settings -->\n\n\
         Settings come from, in rising order: defaults, a TOML file (`--config`, else the one that `OCTET_CONFIG` names, else\n\
         `config/octet.toml` if it exists), environment variables, flags. Everything that is wrong is reported at once, and the\n\
         server does not start.\n\n\
         - A variable is `OCTET_`, the section and the name: `OCTET_SERVER_PORT`. Short forms: `OCTET_HOST`, `OCTET_PORT`,\n  \
           `OCTET_THREADS`, `OCTET_ISA`, `OCTET_MODELS_DIR`, and `OCTET_MODELS` (`path` or `id=path`, separated by commas).\n\
         - `--set section.name=value` sets anything; `octet serve` also has `--host`, `--port` and `--model`.\n",
    );
    for section in Settings::default().sections() {
        out += &format!("\n## `[{}]`\n\n{}\n\n", section.name(), section.doc());
        let header = ["Setting", "Default", "Allowed", "Unit", "What it does"].map(String::from);
        let rows = section.settings().into_iter().map(|s| {
            let (_, name) = s.key.split_once('.').expect("a key has a section");
            [format!("`{name}`"), format!("`{}`", s.default), s.allowed.to_string(), s.unit().to_string(), s.doc]
        });
        out += &table(header, rows.collect());
    }
    let variable = variable_of_key("server.port");
    out += &format!(
        "\n## `[[models]]`\n\n\
         A list of tables with `path` and, optionally, `id` (the name in requests; else the last part of the path). A path\n\
         is a folder, the name of a folder in `engine.models_dir`, or a hub id like `org/name`. The first model that offers\n\
         a task is the default for it. Without any entry, `all-MiniLM-L6-v2` and `sentiment` are served.\n\n\
         ## Example\n\n\
         ```sh\n\
         {variable}=9000 octet serve --model sentiment --set batching.max_queue_tokens=65536\n\
         ```\n",
    );
    out
}

/// A Markdown table with aligned columns.
fn table<const N: usize>(header: [String; N], rows: Vec<[String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().map(|r| r.map(|cell| cell.replace('|', "\\|"))).collect();
    let width = |i: usize| rows.iter().chain([&header]).map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = widths.map(|w| "-".repeat(w));
    std::iter::once(line(&header)).chain([line(&rule)]).chain(rows.iter().map(line)).collect()
}

/// Breaks a paragraph at spaces into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> impl Iterator<Item = String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_string());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.into_iter()
}
