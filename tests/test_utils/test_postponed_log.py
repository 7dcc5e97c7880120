import logging

from projects.mmdet3d_plugin.utils.postponed_log import PostponedLog


def test_nothing_is_written_before_the_file_is_wanted(tmp_path):
    logger = logging.getLogger('postponed')
    logger.setLevel('INFO')
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
    logger.addHandler(console)
    path = tmp_path / 'a.log'
    with PostponedLog(logger, path):
        logger.info('refused')
    with PostponedLog(logger, path) as log:
        logger.info('earlier, 30 °C')
        assert not path.exists()
        log.create_file()
        logger.warning('later')
        assert path.read_text(encoding='utf-8') == 'INFO: earlier, 30 °C\nWARNING: later\n'
    logger.info('after')
    assert path.read_text(encoding='utf-8').endswith('later\n') and logger.handlers == [console]
