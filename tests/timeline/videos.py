"""Three videos with known faces, for tests of queries and commands."""

from tests.runs import VideoContent

TALK, SHOP, EMPTY = "/a/talk.mp4", "/a/shop.mp4", "/a/empty.mp4"
GRID_S = [k / 5 for k in range(20)]


def make_track(
    track: int, words: str, left: float, first: int = 0
) -> list[tuple[int, float, str, float, float]]:
    """Return the faces of a track from frame `first` on.

    Each letter is a frame: h(appy), s(ad), n(eutral), H (happy with more confidence), "." without a face.
    """
    names = {"h": ("happy", 0.7), "s": ("sad", 0.7), "n": ("neutral", 0.5), "H": ("happy", 0.9)}
    return [
        (track, GRID_S[first + k], *names[letter], left) for k, letter in enumerate(words) if letter != "."
    ]


VIDEOS = {
    TALK: VideoContent(
        duration_s=4.0,
        moments_s=GRID_S,
        faces=[*make_track(0, "hhhHhssshh", 0.1), *make_track(1, "sss.ssssnhhhh", 0.7)],
    ),
    SHOP: VideoContent(duration_s=2.0, moments_s=GRID_S[:10], faces=make_track(0, "HHH", 0.4, first=2)),
    EMPTY: VideoContent(duration_s=1.0, moments_s=GRID_S[:5]),
}
