namespace Ctkd.Fs

open Ctkd.Fs.FieldKind

/// How a run reads photographs; `PhotoSettings.fields` says what each field means.
type PhotoSettings = {
    Size: int
    CropArea: float
    Unlabelled: bool
    DecodeThreads: int
    DecodedGb: float
}

/// Table and mistakes of these settings.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module PhotoSettings =

    /// The table.
    let fields: Field list =
        let p = Unchecked.defaultof<PhotoSettings>

        let row flag name kind value = Field.row Audience.EveryRun flag ("Photos." + name) kind value |> Field.isNew

        [
            row "size PIXELS" (nameof p.Size) (whole 8 4096) PhotoSets.defaults.Size
            |> Field.means "photos: height and width of the images as the networks see them"
            |> Field.by "48 for cells, 224 for others"

            row "crop-area SHARE" (nameof p.CropArea) (number positiveShare) 0.08
            |> Field.means "photos: the smallest share of a picture's area that a random crop takes, in (0, 1]"

            {
                row "unlabelled" (nameof p.Unlabelled) switch PhotoSets.defaults.Unlabelled with
                    For = Audience.WithTeacher
            }
            |> Field.means "photos: the training images have no labels: learn from the teacher's outputs alone"

            row "decode-threads COUNT" (nameof p.DecodeThreads) (whole 0 1024) 0
            |> Field.means "photos: threads that decode; results do not depend on it"
            |> Field.by "one a core"
            |> Field.yours
            |> Field.mayChange
            |> Field.ofMachine

            row "decoded-gb SIZE" (nameof p.DecodedGb) (number atLeast0) 1.0
            |> Field.means
                "photos: keep decoded training images up to so many 10^9 bytes, so that small sets are decoded once"
            |> Field.yours
            |> Field.mayChange
            |> Field.ofMachine
        ]

    /// What is wrong beside the values of single fields.
    let mistakes (data: string) (teacher: string) (p: PhotoSettings) : string list = [
        if p.Unlabelled && data <> "photos" then
            "unlabelled is for folders of photographs: --data DIR"
        if p.Unlabelled && teacher = "" then
            "unlabelled needs a teacher: without labels there is nothing else to learn from"
    ]
