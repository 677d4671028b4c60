"""A job that tells its browser how far it is: worker.py JOB_ID FILE [SECONDS_PER_LINE]

It adds up a file of whole numbers, one a line. TABLECAST_DB is the server's SQLite file.
"""

import contextlib, json, logging, os, pathlib, sqlite3, sys, time

DB = pathlib.Path(os.environ.get("TABLECAST_DB", "tablecast.db")).absolute()


def publish(stream, data):
    try:
        # A connection for each message is cheap (0.3 ms), and safe in a worker that forks.
        # mode=rw: a wrong path is an error, not a new database.
        with contextlib.closing(
            sqlite3.connect(f"{DB.as_uri()}?mode=rw", uri=True, timeout=5, isolation_level=None)
        ) as db:
            db.execute("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)", (stream, json.dumps(data)))
    except sqlite3.Error as error:  # the job matters more than its bar
        logging.warning("not published to %s in %s: %s", stream, DB, error)


class Progress:
    """Complete messages, so that the latest is all that a page needs, and not too many of them."""

    def __init__(self, job_id):
        self.job_id, self.percent, self.sent = job_id, None, 0

    def working(self, at, total, message):
        percent, now = 100 * at // total, time.monotonic()
        if percent != self.percent or now - self.sent >= 0.2:
            self.percent, self.sent = percent, now
            self.publish("working", percent=percent, at=at, total=total, message=message)

    def publish(self, status, **rest):
        publish(f"progress:{self.job_id}", {"id": self.job_id, "status": status, **rest})


def main(job_id, path, pause=0.02):
    progress, total = Progress(job_id), 0
    try:
        lines = pathlib.Path(path).read_text().splitlines()
        for number, line in enumerate(lines, 1):
            time.sleep(float(pause))  # the hard work
            total += int(line)
            progress.working(number, len(lines), f"line {number} of {len(lines)}")
    except BaseException as error:  # Ctrl-C, too; it ends the job as it would have
        progress.publish("failed", error=str(error) or type(error).__name__)
        raise
    progress.publish("completed", percent=100, result={"total": total})


if __name__ == "__main__":
    main(*sys.argv[1:])
