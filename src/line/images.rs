//! The `images` of a prompt line: URLs, data URLs or bare base64, made into OpenAI's content parts.

use super::fields::push_string;

/// How the first base64 characters of a picture tell its type.
const SIGNATURES: [(&str, &str); 4] =
    [("iVBORw0KGgo", "image/png"), ("/9j/", "image/jpeg"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp")];

/// Every image as a URL; the error names the one that is none.
pub fn to_urls(images: &str) -> Result<Vec<String>, String> {
    let list: Vec<String> =
        serde_json::from_str(images).map_err(|_| "images must be an array of strings".to_owned())?;
    list.into_iter().enumerate().map(|(index, image)| to_url(image, index + 1)).collect()
}

fn to_url(image: String, number: usize) -> Result<String, String> {
    if ["data:", "https://", "http://"].iter().any(|scheme| image.starts_with(scheme)) {
        return Ok(image);
    }
    match SIGNATURES.iter().find(|(signature, _)| image.starts_with(signature)) {
        Some((_, media_type)) => Ok(format!("data:{media_type};base64,{image}")),
        None => {
            Err(format!("image {number} is neither a URL, nor a data URL, nor the base64 of a PNG, JPEG, GIF or WebP"))
        }
    }
}

/// Writes the content array of a user message: the text, then the images.
pub fn push_parts(json: &mut Vec<u8>, prompt: &str, urls: &[String]) {
    json.extend_from_slice(b"[{\"type\":\"text\",\"text\":");
    push_string(json, prompt);
    json.push(b'}');
    for url in urls {
        json.extend_from_slice(b",{\"type\":\"image_url\",\"image_url\":{\"url\":");
        push_string(json, url);
        json.extend_from_slice(b"}}");
    }
    json.push(b']');
}
