//! Pages of HTML that need nothing else: no network, no script, no file beside them.

pub(crate) mod chart;

/// How the pages look.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark}pre{white-space:pre-wrap;font-size:13px;padding:1rem;border:1px solid #8884;\
border-radius:6px}table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}\
td,th{border:1px solid #8884;padding:.25rem .6rem;text-align:left;vertical-align:top}\
svg{width:100%;height:auto}";

/// A whole page; `title` is text, `body` is HTML.
pub(crate) fn html(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1>{body}</html>\n"
    )
}

/// Text as HTML shows it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table; cells are text, the first row is its head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let row = |(i, cells): (usize, &Vec<String>)| {
        let tag = if i == 0 { "th" } else { "td" };
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    format!("<table>{}</table>", rows.iter().enumerate().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        let rows = [vec!["<b>".to_owned()], vec!["a & \"b\"".to_owned()]];
        let page = html("<i>", &table(&rows));
        assert!(page.contains("<th>&lt;b&gt;</th>"), "{page}");
        assert!(page.contains("<td>a &amp; &quot;b&quot;</td>"), "{page}");
        assert!(page.contains("<h1>&lt;i&gt;</h1>"), "{page}");
    }
}
