//! Reading the configuration again, while the house is open.
//!
//! What belongs to the front (sockets, certificates, limits of connections, who may manage) changes while requests go on,
//! and no connection breaks. For anything else the house is closed as at a stop and opened again in the same process:
//! what is under way ends, who comes waits in the kernel. What cannot be is refused, and all stays as it was.

use super::house::House;
use super::sockets::Sockets;
use super::{Caretaker, Error, parts, systemd, tls};
use crate::config::Config;

/// What a reload came to.
pub(super) enum Reloaded {
    /// All is said and done; what is not as it should be, if anything.
    Done(Option<String>),
    /// The house is to be opened again; this is what it is served by until then.
    Reopen(Box<(Config, Sockets)>),
}

impl Caretaker<'_> {
    pub(super) fn reload(&mut self, house: &mut House) -> Reloaded {
        systemd::reloading();
        tracing::info!("the configuration is read again");
        let planned = self.startup.source.load().map_err(|error| error.to_string());
        match planned.and_then(|config| self.go_over_to(config, house)) {
            Ok(Reloaded::Reopen(was)) => Reloaded::Reopen(was),
            Ok(Reloaded::Done(complaint)) => {
                tracing::info!("the configuration is in force");
                self.watch.reloaded(complaint);
                Reloaded::Done(None)
            }
            Err(why) => {
                self.refuse(&why);
                Reloaded::Done(None)
            }
        }
    }

    /// The configuration that is there is not the one that is served by.
    pub(super) fn refuse(&self, why: &str) {
        tracing::error!("the changed configuration is refused, the one before goes on: {why}");
        self.watch.reloaded(Some(format!("the changed configuration is refused: {why}")));
    }

    fn go_over_to(&mut self, config: Config, house: &mut House) -> Result<Reloaded, String> {
        let said = |error: Error| error.to_string();
        let now = &self.startup.config;
        if config.server.data_dir != now.server.data_dir {
            return Err("server.data_dir cannot change while PiCloud runs; restart it".to_owned());
        }
        if config.device != now.device {
            return Err("[device] cannot change while PiCloud runs; restart it".to_owned());
        }
        if config.log.format != now.log.format {
            return Err("log.format cannot change while PiCloud runs; restart it".to_owned());
        }
        let sockets = self.sockets.fit(&config).map_err(said)?;
        if sockets.is_empty() {
            return Err(Error::NoSockets.to_string());
        }
        let settings =
            tls::settings(&config, &sockets.addresses(false), &sockets.addresses(true)).map_err(said)?;
        let is_front_only = is_front_only(now, &config);
        let certificates = house.certificates.load_full();
        let stays = match (&certificates, &settings) {
            (Some(tls), Some(settings)) => tls.is_of(settings),
            (None, None) => true,
            _ => false,
        };
        // Those of a house that is opened again are read again.
        let renewed = if stays && is_front_only {
            None
        } else {
            let opened = settings.map(|settings| tls::open(&config, settings)).transpose().map_err(said)?;
            // Nothing is served of them yet, so they may as well be mended first.
            let bad = opened.as_ref().map(crate::http::Tls::bad_files).unwrap_or_default();
            if let Some(bad) = bad.first() {
                return Err(bad.clone());
            }
            Some(opened)
        };
        if !is_front_only {
            let before = self.sockets.fit(now).map_err(said)?;
            self.log.set_level(&config.log)?;
            self.sockets.become_these(sockets);
            self.premises = parts::premises(&config);
            let was = std::mem::replace(&mut self.startup.config, config);
            return Ok(Reloaded::Reopen(Box::new((was, before))));
        }
        self.log.set_level(&config.log)?;
        house.refit(&config, self.startup.device_key.clone(), renewed);
        house.open_doors(&config, &sockets).map_err(|error| error.to_string())?;
        self.sockets.become_these(sockets);
        self.startup.config = config;
        let complaint = certificates.filter(|_| stays).and_then(|tls| {
            tls.read_files();
            // What it was is served on.
            tls.bad_files().into_iter().next()
        });
        Ok(Reloaded::Done(complaint))
    }
}

/// Whether two configurations differ in what the front of an open house can take over.
fn is_front_only(now: &Config, new: &Config) -> bool {
    let like = Config {
        server: crate::config::Server {
            data_dir: now.server.data_dir.clone(),
            threads: now.server.threads,
            // Uploads of backups have it too.
            body_timeout_seconds: now.server.body_timeout_seconds,
            ..new.server.clone()
        },
        tls: new.tls.clone(),
        acme: new.acme.clone(),
        proxies: new.proxies.clone(),
        management: new.management.clone(),
        log: new.log.clone(),
        ..now.clone()
    };
    like == *new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_front_takes_over() {
        let now = Config::default();
        let check = |change: fn(&mut Config), front: bool| {
            let mut new = now.clone();
            change(&mut new);
            assert_eq!(is_front_only(&now, &new), front);
        };
        check(|_| {}, true);
        check(|new| new.server.listen.clear(), true);
        check(|new| new.server.drain_grace_seconds = 1, true);
        check(|new| new.tls.redirect = false, true);
        check(|new| new.log.access = false, true);
        check(|new| new.management.page_limit_max = 9, true);
        check(|new| new.server.threads = 3, false);
        check(|new| new.server.body_timeout_seconds = 3, false);
        check(|new| new.scripts.threads = 3, false);
        check(|new| new.cron.clock = crate::config::CronClock::Trusted, false);
        check(|new| new.env.insert("A".into(), "b".into()).map_or((), drop), false);
    }
}
