"""The supported containers: one table of FFmpeg's formats and the suffixes of their files."""

SUFFIXES_BY_FORMAT: dict[str, str] = {
    "apng": "apng",
    "asf": "asf dvr-ms wmv",
    "av1": "",
    "avi": "amv avi divx",
    "bmp_pipe": "",
    "cavsvideo": "",
    "cine": "cine",
    "dhav": "dav",
    "dirac": "",
    "dnxhd": "dnxhd",
    "dv": "dv",
    "flv": "flv",
    "gif": "gif",
    "gxf": "gxf",
    "h264": "264 avc h264 h26l",
    "hevc": "265 h265 hevc",
    "hxvs": "",
    "ifv": "ifv",
    "ingenient": "",
    "ivf": "ivf",
    "ivr": "ivr",
    "iv8": "",
    "kux": "kux",
    "live_flv": "",
    "lmlm4": "",
    "luodat": "",
    "lxf": "lxf",
    "m4v": "",
    "matroska": "mk3d mkv webm",
    "mjpeg": "mjpeg mjpg",
    "mov": "360 3g2 3gp 3gp2 3gpp f4v insv ismv lrf lrv m4v mj2 mov mp4 mqv qt",
    "mpeg": "evo m2p mod mpe mpeg mpg vob vro",
    "mpegts": "m2t m2ts mts tod tp trp ts",
    "mpegvideo": "m1v m2v mp2v mpv",
    "mpjpeg": "",
    "mxf": "mxf",
    "mxg": "mxg",
    "nsv": "nsv",
    "nut": "nut",
    "nuv": "nuv",
    "obu": "obu",
    "ogg": "ogm ogv ogx",
    "pva": "pva",
    "rm": "rm rmvb",
    "smjpeg": "",
    "ty": "ty ty+",
    "vc1": "vc1",
    "vivo": "viv",
    "vvc": "266 h266 vvc",
    "wtv": "wtv",
    "yuv4mpegpipe": "y4m",
}
"""FFmpeg's names of the supported formats, and the suffixes of files that are videos by their name.

Each format is a single file that contains its own media and that FFmpeg decodes: files for exchange, raw
streams, and recordings of cameras, broadcasters and surveillance systems. Playlists (HLS, DASH, ffconcat),
session descriptions and image sequences, which refer to other files and addresses, must stay out. A format
without suffixes is recognized by its content, because its suffix is not one of videos or names another
format as well. "bmp_pipe" reads the pictures of `pictures.unpack_picture`.
"""
FORMATS = tuple(SUFFIXES_BY_FORMAT)
VIDEO_SUFFIXES = frozenset(f".{name}" for names in SUFFIXES_BY_FORMAT.values() for name in names.split())


def explain_refusal(format_name: str) -> str:
    """Return the reason why a file of a format outside the table is refused."""
    return (
        f"the format {format_name} is not a supported video format; playlists are not read. "
        f"Supported formats: {', '.join(FORMATS)}"
    )
