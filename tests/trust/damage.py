"""Ways to damage a file."""
import random

SNIPPETS = [b"", b'"', b'""', b"\n", b"\r", b"\r\n", b"\t", b",", b"::", b"|", b"\0", b"\xef\xbb\xbf", b"\xff\xfe",
            b"\xe9", b"nan", b"-", b"1e999", b"\xe2\x80\xa8", b"\xd9\xa1", b"9" * 400, b"x" * 10_000, b"five", b" ",
            b"\x1c", b"\x85"]


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three injuries: cut short, a piece gone, doubled or moved, bytes put in, a field or a line changed."""
    for _ in range(draw.randint(1, 3)):
        at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + draw.choice([1, 4, 30, 200]))
        kind = draw.randrange(8)
        lines = content.split(b"\n")
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[end:]
        elif kind == 2:
            content = content[:end] + content[at:]
        elif kind == 3:
            draw.shuffle(lines)
            content = b"\n".join(lines)
        elif kind == 4:
            content = content.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"]))
        elif kind == 5:
            content = content.decode("latin-1").encode(draw.choice(["utf-16", "utf-8", "utf-8-sig"]))
        else:
            content = content[:at] + draw.choice(SNIPPETS) + content[at if kind == 6 else end:]
    return content


def harmless(content: bytes, draw: random.Random, header: bool) -> bytes:
    """Injuries that change nothing a file says: other line ends, blank lines, lines shuffled or repeated."""
    lines = content.removesuffix(b"\n").split(b"\n")
    first = lines.pop(0) if header else b""
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(3)
        if kind == 0:
            draw.shuffle(lines)
        elif kind == 1:
            lines += draw.choices(lines, k=3)
        else:
            lines.insert(draw.randrange(len(lines) + 1), b"")
    end = draw.choice([b"\n", b"\r\n", b"\n\n"])
    return end.join([first, *lines] if header else lines) + draw.choice([b"", end])
