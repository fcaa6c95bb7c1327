"""The tables of a queue, and what is read from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS studies (uid TEXT PRIMARY KEY, received REAL NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
  id INTEGER PRIMARY KEY, sop TEXT NOT NULL, sha256 TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
  sop_class TEXT NOT NULL, file TEXT NOT NULL, bytes INTEGER NOT NULL, received REAL NOT NULL,
  report INTEGER REFERENCES reports(id), UNIQUE (sop, sha256));
CREATE INDEX IF NOT EXISTS waiting ON instances (report, study);
CREATE TABLE IF NOT EXISTS reports (
  id INTEGER PRIMARY KEY, study TEXT NOT NULL, made REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
  next REAL NOT NULL, uid TEXT NOT NULL DEFAULT '', done REAL);
CREATE TABLE IF NOT EXISTS deliveries (
  report INTEGER NOT NULL REFERENCES reports(id), destination TEXT NOT NULL, state TEXT NOT NULL,
  attempts INTEGER NOT NULL, next REAL NOT NULL, transaction_uid TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (report, destination));
"""
STATES = ("analyse", "send", "done", "cleared", "dead")
"""States of a report: analyse → send → done → cleared (its files are deleted), or dead.

Of a delivery: send → (commit →) done, or dead."""


@dataclass(frozen=True)
class Instance:
    """An object that was received: its UIDs, the SHA-256 of its bytes, and its file."""

    sop: str
    sha256: str
    study: str
    series: str
    sop_class: str
    file: Path


@dataclass(frozen=True)
class Job:
    """A report to make of instances of one study; ``made`` is the time that it carries."""

    id: int
    study: str
    made: float
    attempts: int
    instances: tuple[Instance, ...]
    earlier: tuple[str, ...]


@dataclass(frozen=True)
class Delivery:
    """A report's objects on their way to a destination."""

    report: int
    destination: str
    attempts: int
    state: str
