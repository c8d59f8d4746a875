//! The part of Go's templates that people type after `--format`: text, `{{.Field}}`,
//! `{{.A.B}}` and `{{json .A}}`. Anything else is refused, never printed wrong.

use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Parses a template; `\t` and `\n` are what they are in Go.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("template {text:?}: unclosed action"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(parse_action(action.trim())?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Fills the template in.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { path, json } => {
                    let found = lookup(value, path)?;
                    match found {
                        Value::String(text) if !json => out.push_str(text),
                        other => out.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn parse_action(action: &str) -> Result<Part, String> {
    let (json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let names = path.strip_prefix('.').filter(|names| !names.contains([' ', '|', '(', '"']));
    let names = names.ok_or_else(|| {
        format!("template action {{{{{action}}}}}: only {{{{.Field}}}} and {{{{json .Field}}}} are supported")
    })?;
    let path = names.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Part::Field { path, json })
}

fn lookup<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value, String> {
    path.iter().try_fold(value, |value, name| {
        value.get(name).ok_or_else(|| format!("template: there is no field .{}", path.join(".")))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let value = json!({ "ID": "abc", "State": { "ExitCode": 7, "Error": "x" } });
        let render = |text: &str| Template::parse(text).unwrap().render(&value);
        assert_eq!(render("{{.ID}}\\t{{ .State.ExitCode }}!").unwrap(), "abc\t7!");
        assert_eq!(render("{{json .State.Error}}").unwrap(), "\"x\"");
        assert!(render("{{.Nope}}").is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["{{.ID", "{{range .X}}", "{{if .A}}", "{{.A | upper}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
