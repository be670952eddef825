"""Command `explore`."""

import itertools

from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.arguments import DataSets, OutputFolder, check_data_exists
from fer_batch.cli.output import ProgressLine, print_line, print_table


@add_command(TRAIN)
def explore_command(*, data: DataSets, output: OutputFolder, samples: bool = True) -> None:
    """Describe data sets of labelled faces: classes, duplicates, odd images, brightness, sharpness.

    The folder gets explore.html (one page with everything), explore.xlsx, explore.json, classes.csv, plots in
    colour and (_bw) in black and white, and pictures of faces: samples_CLASS.png and odd_KIND.png. Only
    unreadable images are left out.

    The pictures and the page show faces. FER2013 and CK+48 are for research: do not publish their pictures,
    and use --no-samples for a page that you give to others.

    Args:
        samples: Write pictures of faces, nine per class, also into the page.

    Examples:
      fer-batch explore --data fer2013=fer2013.parquet -o pages
      fer-batch explore --data fer2013=fer2013.csv --data ck48=CK+48/ -o pages     both, also together
      fer-batch explore --data folder=faces/ --no-samples -o pages                 no pictures
    """
    check_data_exists(data)
    from fer_batch.data.explore.explore import explore
    from fer_batch.data.explore.report import write_exploration
    from fer_batch.data.explore.tables import list_tables
    from fer_batch.storage.folder import check_folder

    check_folder(output)
    line = ProgressLine(is_logged=False)
    line.show("reading " + ", ".join(name for name, _ in data) + " …")
    try:
        exploration = explore(data, on_line=line.print)
        write_exploration(output, exploration, samples=samples, on_progress=line.show)
    finally:
        line.close()
    for table in itertools.chain(*list_tables(exploration).values()):
        left = [number for number, is_numeric in enumerate(table.is_numeric()) if not is_numeric]
        print_table(list(table.frame.columns), table.format_rows(), title=table.title, left=left)
    print_line(f"{output / 'explore.html'}; explore.xlsx, explore.json and pictures are beside it")
