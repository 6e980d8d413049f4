//! `nigh operator token`: who may ask the API and which nodes may join.

use std::time::Duration;

use clap::{Args, Subcommand};
use nigh_model::access::{ROLES, Role};
use nigh_proto::v1::create_token_request::Kind;
use nigh_proto::v1::{
    ApiAccess, CreateTokenRequest, CreateTokenResponse, JoinAccess, ListTokensRequest,
    RevokeTokenRequest, Token, token,
};
use serde::Serialize;

use crate::api::{Access, Api, timed};
use crate::args::{Before, Cluster};
use crate::credentials::{ADDRESSES_MAX, Credentials};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::table::Rows;
use crate::time::rfc3339_at;
use crate::units;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a token and print what its holder needs, and nothing else
    #[command(after_help = "\
Examples:
  nigh operator token create --role deployer --name ci > ci.toml
  nigh operator token create --join
  nigh operator token create --join --ttl 10m --name eu-1 --region eu-west-1

With --role: a credentials file. With --join: one string, for `nigh node --join-token`.
The cluster keeps no secret: what is printed here is printed nowhere else.")]
    Create(Create),
    /// List tokens, without their secrets
    #[command(after_help = "Example:\n  nigh operator token list")]
    List {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Make a token useless
    #[command(after_help = "Example:\n  nigh operator token revoke 0123456789abcdef")]
    Revoke {
        /// Its id
        id: String,
        #[command(flatten)]
        cluster: Cluster,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("kind").required(true).args(["role", "join"]))]
pub(super) struct Create {
    /// What its holder may do: viewer, deployer or admin
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Option<Role>,
    /// Admit a node
    #[arg(long)]
    join: bool,
    /// It ends after this long [default: 1h with --join, else never]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    ttl: Option<Duration>,
    /// How many nodes it admits, or `any` [default: 1]
    #[arg(long, value_name = "N|any", value_parser = uses, conflicts_with = "role")]
    uses: Option<Uses>,
    /// What it is called in lists; with --join: the only node that it admits
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The only region whose nodes it admits
    #[arg(long, value_name = "REGION", conflicts_with = "role")]
    region: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// How many nodes a token admits; none: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uses(Option<u32>);

pub(super) async fn run(verb: Verb, before: Before, format: Format) -> Result {
    match verb {
        Verb::Create(create) => {
            let access = create.cluster.clone().access(before)?;
            let api = Api::connect(&access).await?;
            let request = request_of(create)?;
            let answer = api.access().create_token(timed(request)).await;
            let made = answer.map_err(|status| api.failure(&status))?.into_inner();
            print(made, &access, api.address(), format)
        }
        Verb::List { cluster } => {
            let api = Api::connect(&cluster.access(before)?).await?;
            let answer = api.access().list_tokens(timed(ListTokensRequest {})).await;
            let tokens = answer.map_err(|status| api.failure(&status))?.into_inner().tokens;
            match format {
                Format::Json => {
                    output::json(&tokens.into_iter().map(Row::from).collect::<Vec<_>>())
                }
                Format::Table => output::line(table_of(tokens)),
            }
        }
        Verb::Revoke { id, cluster } => {
            let api = Api::connect(&cluster.access(before)?).await?;
            let request = RevokeTokenRequest { id: id.clone(), request_id: String::new() };
            let answer = api.access().revoke_token(timed(request)).await;
            answer.map_err(|status| api.failure(&status))?;
            match format {
                Format::Json => output::json(&serde_json::json!({ "revoked": id })),
                Format::Table => output::line(format!("token {id} is of no use any more")),
            }
        }
    }
}

fn request_of(create: Create) -> Result<CreateTokenRequest> {
    let Create { role, ttl, uses, name, region, .. } = create;
    let ttl_ms = match ttl {
        Some(ttl) if ttl.is_zero() => {
            return Err(Failure::usage("--ttl: it would be over before it began"));
        }
        Some(ttl) => u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1),
        None => 0,
    };
    let name = name.unwrap_or_default();
    let (kind, name) = match role {
        Some(role) => (Kind::Api(ApiAccess { role: role.to_string() }), name),
        None => {
            let Uses(uses) = uses.unwrap_or(Uses(Some(1)));
            let region = region.unwrap_or_default();
            (Kind::Join(JoinAccess { uses, node: name.clone(), region }), name)
        }
    };
    Ok(CreateTokenRequest { kind: Some(kind), name, ttl_ms })
}

/// What its holder needs; and nothing else, so that it can go into a file or a variable.
fn print(made: CreateTokenResponse, access: &Access, asked: &str, format: Format) -> Result {
    let expires = made.expires.map(rfc3339_at);
    let credentials = made.token.parse().ok().map(|token| Credentials {
        api: addresses(asked, &access.credentials.api, &made.api),
        cluster: made.cluster.clone(),
        ca: made.ca.clone(),
        token: Some(token),
    });
    match (format, credentials) {
        (Format::Json, credentials) => output::json(&serde_json::json!({
            "id": made.id,
            "token": made.token,
            "expires": expires,
            "cluster": made.cluster,
            "ca": made.ca,
            "api": credentials.map_or(made.api, |credentials| credentials.api),
        })),
        (Format::Table, Some(credentials)) => output::raw(credentials.text().as_bytes()),
        (Format::Table, None) => output::line(made.token),
    }
}

/// The address that has just worked, then those that its user knows, then those that the nodes
/// tell each other, which may not be reached from everywhere.
fn addresses(asked: &str, known: &[String], told: &[String]) -> Vec<String> {
    let asked = match asked.contains("://") {
        true => asked.to_owned(),
        false => format!("https://{asked}"),
    };
    let mut all = vec![asked];
    for address in known.iter().chain(told) {
        if !all.contains(address) && all.len() < ADDRESSES_MAX {
            all.push(address.clone());
        }
    }
    all
}

/// A token as JSON.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: Option<String>,
    /// A role, or `join`.
    kind: String,
    uses_left: Option<u32>,
    node: Option<String>,
    region: Option<String>,
    created: Option<String>,
    expires: Option<String>,
    expired: bool,
}

impl From<Token> for Row {
    fn from(token: Token) -> Self {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let (kind, join) = match token.kind {
            Some(token::Kind::Api(api)) => (api.role, JoinAccess::default()),
            Some(token::Kind::Join(join)) => ("join".to_owned(), join),
            None => (String::new(), JoinAccess::default()),
        };
        Self {
            id: token.id,
            name: said(token.name),
            kind,
            uses_left: join.uses,
            node: said(join.node),
            region: said(join.region),
            created: token.created.map(rfc3339_at),
            expires: token.expires.map(rfc3339_at),
            expired: token.expired,
        }
    }
}

fn table_of(tokens: Vec<Token>) -> String {
    let mut rows = Rows::new(["ID", "NAME", "KIND", ">USES LEFT", "ONLY FOR", "EXPIRES"]);
    for row in tokens.into_iter().map(Row::from) {
        let is_join = row.kind == "join";
        let bound: Vec<String> = row.node.into_iter().chain(row.region).collect();
        let bound = if bound.is_empty() { "-".to_owned() } else { bound.join(" in ") };
        let uses = match row.uses_left {
            Some(uses) => uses.to_string(),
            None if is_join => "any".to_owned(),
            None => "-".to_owned(),
        };
        let expires = match row.expires {
            Some(at) if row.expired => format!("{at} (expired)"),
            Some(at) => at,
            None => "never".to_owned(),
        };
        let name = row.name.map_or_else(|| "-".to_owned(), |n| output::printable(&n).into_owned());
        rows.push([row.id, name, row.kind, uses, bound, expires]);
    }
    rows.text()
}

fn role(text: &str) -> std::result::Result<Role, String> {
    text.parse().map_err(|_| {
        let like = nigh_model::suggest::nearest(text, ROLES.map(Role::as_str));
        let hint = like.map(|like| format!("; did you mean `{like}`?")).unwrap_or_default();
        format!("a role is viewer, deployer or admin{hint}")
    })
}

fn uses(text: &str) -> std::result::Result<Uses, String> {
    match text {
        "any" => Ok(Uses(None)),
        text => match text.parse() {
            Ok(0) | Err(_) => Err("write a number from 1, or any".to_owned()),
            Ok(uses) => Ok(Uses(Some(uses))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn made(line: &str) -> std::result::Result<CreateTokenRequest, String> {
        let words = ["nigh", "operator", "token", "create"].into_iter();
        let cli = Cli::try_parse_from(words.chain(line.split_whitespace()));
        let Command::Operator(args) = cli.map_err(|error| error.to_string())?.command else {
            panic!("operator")
        };
        let super::super::Verb::Token { verb: Verb::Create(create) } = args.verb else {
            panic!("token create")
        };
        request_of(create).map_err(|failure| failure.to_string())
    }

    #[test]
    fn flags_say_what_the_token_is_for() {
        let api = made("--role deployer --name ci --ttl 2h").unwrap();
        assert_eq!(api.kind, Some(Kind::Api(ApiAccess { role: "deployer".into() })));
        assert_eq!((api.name.as_str(), api.ttl_ms), ("ci", 7_200_000));
        let join = |uses, node: &str, region: &str| {
            Some(Kind::Join(JoinAccess { uses, node: node.into(), region: region.into() }))
        };
        assert_eq!(made("--join").unwrap().kind, join(Some(1), "", ""));
        assert_eq!(made("--join --uses any").unwrap().kind, join(None, "", ""));
        let bound = made("--join --uses 2 --name n1 --region eu").unwrap();
        assert_eq!(bound.kind, join(Some(2), "n1", "eu"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, said) in [
            ("", "--role"),
            ("--role admin --join", "cannot be used with"),
            ("--role admn", "did you mean `admin`?"),
            ("--role admin --uses 2", "cannot be used with"),
            ("--role admin --region eu", "cannot be used with"),
            ("--join --uses 0", "from 1"),
            ("--join --ttl 0", "before it began"),
            ("--join --ttl soon", "such as"),
        ] {
            let refused = made(line).unwrap_err();
            assert!(refused.contains(said), "{line}: {refused}");
        }
    }

    #[test]
    fn the_address_that_worked_comes_first_and_none_twice() {
        let known = ["https://a:1".to_owned(), "https://b:1".to_owned()];
        let told = ["https://b:1".to_owned(), "https://c:1".to_owned()];
        let all = addresses("b:1", &known, &told);
        assert_eq!(all, ["https://b:1", "https://a:1", "https://c:1"]);
    }

    #[test]
    fn a_list_says_what_is_left_of_each() {
        let join = JoinAccess { uses: Some(2), node: "n1".into(), region: "eu".into() };
        let tokens = vec![
            Token { id: "a".into(), kind: Some(token::Kind::Join(join)), ..Token::default() },
            Token {
                id: "b".into(),
                kind: Some(token::Kind::Api(ApiAccess { role: "admin".into() })),
                expires: Some(prost_types::Timestamp::default()),
                expired: true,
                ..Token::default()
            },
        ];
        let text = table_of(tokens);
        assert!(text.contains("n1 in eu") && text.contains("never"), "{text}");
        assert!(text.contains("1970-01-01T00:00:00.000Z (expired)"), "{text}");
    }
}
