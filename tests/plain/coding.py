"""Values through the codec and back, as every file of ours does it."""

import io
import json
import zipfile
from typing import Any

from sb3_o2o.plain.decoder import Decoder
from sb3_o2o.plain.encoder import Encoder
from sb3_o2o.plain.parts import PartsReader, PartsWriter, check_zip


def written(value: Any) -> tuple[str, zipfile.ZipFile]:
    """JSON of a value, and the zip that its arrays are in."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        text = json.dumps(Encoder(PartsWriter(archive)).encode(value), allow_nan=False)
    return text, zipfile.ZipFile(stream)


def read(text: str, archive: zipfile.ZipFile, trust: bool = False) -> Any:
    """The value of JSON and the zip of its arrays."""
    check_zip(archive, "a test's zip")
    return Decoder(PartsReader(archive), trust).decode(json.loads(text))


def there_and_back(value: Any, trust: bool = False) -> Any:
    """A value, written and read."""
    return read(*written(value), trust)
