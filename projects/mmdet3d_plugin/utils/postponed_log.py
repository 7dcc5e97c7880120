"""A log that becomes a file when there is something to keep."""
import io
import logging


class PostponedLog(logging.FileHandler):
    """Context manager: records of a logger, kept in memory until `create_file`, then written as they come.

    Args:
        logger (logging.Logger): with a handler, whose format is taken.
        path (str | Path): the file.
    """

    def __init__(self, logger, path):
        super().__init__(path, mode='w', encoding='utf-8')
        self.logger = logger
        self.setFormatter(logger.handlers[0].formatter)

    def _open(self):
        return io.StringIO()

    def __enter__(self):
        self.logger.addHandler(self)
        return self

    def __exit__(self, *error):
        self.logger.removeHandler(self)
        self.close()

    def create_file(self):
        """Write what there is so far; the folder must be there."""
        file = open(self.baseFilename, self.mode, encoding=self.encoding)
        with self.lock:
            file.write(self.stream.getvalue())
            self.setStream(file)
