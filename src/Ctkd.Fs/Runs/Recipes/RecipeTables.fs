namespace Ctkd.Fs

/// The numbers that the recipes' sources publish: accuracies in percent top-1, and weights that differ by
/// pair.
module internal RecipeTables =

    /// Nothing is published.
    let private __ = nan

    /// The eleven pairs: accuracy of the teacher and of the student alone; of KD at T = 4, CTKD global, CTKD
    /// instance-wise; of CTKD in RLKD's run, of RLKD.
    let pairs: (string * float list) list = [
        "resnet56-resnet20", [ 72.34; 69.06; 70.66; 71.19; 71.32; 71.11; 71.40 ]
        "resnet110-resnet32", [ 74.31; 71.14; 73.08; 73.52; 73.61; 73.47; 73.81 ]
        "resnet110-resnet20", [ 74.31; 69.06; 70.66; 70.99; __; 71.08; 71.44 ]
        "wrn_40_2-wrn_16_2", [ 75.61; 73.26; 74.92; 75.45; __; 75.40; 75.79 ]
        "wrn_40_2-wrn_40_1", [ 75.61; 71.98; 73.54; 73.93; 74.10; 73.97; 74.17 ]
        "vgg13-vgg8", [ 74.64; 70.36; 72.98; 73.52; __; 73.48; 73.75 ]
        "wrn_40_2-ShuffleV1", [ 75.61; 70.50; 74.83; 75.78; __; 75.70; 76.01 ]
        "vgg13-MobileNetV2", [ 74.64; 64.60; 67.37; 68.46; __; 68.42; 68.73 ]
        "ResNet50-MobileNetV2", [ 79.34; 64.60; 67.35; 68.47; __; 68.51; 68.75 ]
        "resnet32x4-ShuffleV1", [ 79.42; 70.50; 74.07; 74.48; __; 74.52; 74.84 ]
        "resnet32x4-ShuffleV2", [ 79.42; 71.82; 74.45; 75.31; __; 75.26; 75.55 ]
    ]

    /// The seven of them on which methods were combined: method, with CTKD, with RLKD.
    let combined: (string * (float * float * float) list) list = [
        "pkt",
        [
            (70.85, 71.16, 71.41)
            (73.36, 73.53, 73.68)
            (70.88, 71.15, 71.34)
            (74.82, 75.32, 75.62)
            (74.01, 74.11, 74.23)
            (74.39, 74.68, 74.89)
            (75.10, 75.47, 75.78)
        ]
        "sp",
        [
            (70.84, 71.27, 71.65)
            (73.09, 73.39, 73.70)
            (70.74, 71.13, 71.51)
            (74.88, 75.33, 75.61)
            (73.77, 74.00, 74.22)
            (74.97, 75.37, 75.31)
            (75.59, 75.82, 76.04)
        ]
        "vid",
        [
            (70.62, 70.75, 71.09)
            (73.02, 73.38, 73.70)
            (70.59, 71.09, 71.39)
            (74.89, 75.22, 75.48)
            (73.60, 73.81, 74.02)
            (74.81, 75.19, 75.58)
            (75.24, 75.52, 75.81)
        ]
        "crd",
        [
            (71.69, 72.11, 72.29)
            (73.63, 74.10, 74.41)
            (71.38, 72.02, 72.28)
            (75.53, 75.75, 76.03)
            (74.36, 74.69, 74.98)
            (75.13, 75.47, 75.68)
            (75.90, 76.21, 76.55)
        ]
        "srrl",
        [
            (71.13, 71.45, 71.61)
            (73.48, 73.75, 74.02)
            (71.09, 71.48, 71.81)
            (75.69, 75.96, 76.23)
            (74.18, 74.40, 74.64)
            (75.36, 75.70, 75.90)
            (75.90, 76.00, 76.06)
        ]
        "dkd",
        [
            (71.43, 71.65, 71.89)
            (73.66, 74.02, 74.27)
            (71.28, 71.70, 71.91)
            (75.70, 75.81, 76.02)
            (74.54, 74.59, 74.90)
            (75.44, 75.93, 76.02)
            (76.48, 76.94, 77.21)
        ]
    ]

    let combinedPairs: string list = [
        "resnet56-resnet20"
        "resnet110-resnet32"
        "resnet110-resnet20"
        "wrn_40_2-wrn_16_2"
        "wrn_40_2-wrn_40_1"
        "resnet32x4-ShuffleV1"
        "resnet32x4-ShuffleV2"
    ]

    /// RLKD's agent with something left out, on resnet56 to resnet20 by KD, where the full one has 71.40.
    let ablations: (string * float) list = [
        "rlkd-no-uncertainty", 71.16
        "rlkd-no-calibration", 70.91
        "rlkd-no-exploration", 71.03
    ]

    /// ImageNet's ResNet34 to ResNet18, top-1 and top-5: method, with CTKD, with CTKD in RLKD's run, with
    /// RLKD.
    let imageNetPair = "imagenet/ResNet34-imagenet/ResNet18"

    /// The teacher and the student of mdistiller's other runs on ImageNet.
    let otherImageNetPair = "imagenet/ResNet50-imagenet/MobileNetV1"

    let imageNet: (string * (float * float) list) list = [
        "kd", [ 70.83, 90.31; 71.32, 90.27; 71.28, 90.33; 71.39, 90.51 ]
        "pkt", [ 70.92, __; 71.31, __; __, __; 71.53, 90.42 ]
        "rkd", [ 70.94, __; 71.13, __; __, __; 71.37, 90.45 ]
        "srrl", [ 71.01, __; 71.25, __; __, __; 71.38, 90.52 ]
        "dkd", [ 71.13, __; 71.51, __; 71.47, __; 71.62, 90.56 ]
    ]

    /// mdistiller's beta of DKD and the accuracy with it.
    let dkd: (string * (float * float)) list = [
        "resnet56-resnet20", (2.0, 71.97)
        "resnet110-resnet32", (2.0, 74.11)
        "resnet32x4-resnet8x4", (8.0, 76.32)
        "vgg13-vgg8", (6.0, 74.68)
        "wrn_40_2-wrn_16_2", (6.0, 76.23)
        "wrn_40_2-wrn_40_1", (6.0, 74.81)
        "vgg13-MobileNetV2", (6.0, 69.71)
        "resnet32x4-ShuffleV1", (8.0, 76.45)
        "resnet32x4-ShuffleV2", (8.0, 77.07)
        "wrn_40_2-ShuffleV1", (8.0, 76.70)
        "ResNet50-MobileNetV2", (8.0, 70.35)
    ]

    /// DTKD's weights alpha of its loss and beta of KD at tau.
    let dtkd: (string * (float * float)) list = [
        "resnet56-resnet20", (1.0, 0.5)
        "resnet110-resnet32", (1.0, 0.5)
        "resnet32x4-resnet8x4", (3.0, 1.0)
        "vgg13-vgg8", (3.0, 1.0)
        "wrn_40_2-wrn_16_2", (3.0, 1.0)
        "wrn_40_2-wrn_40_1", (1.0, 0.5)
        "vgg13-MobileNetV2", (3.0, 1.0)
        "resnet32x4-ShuffleV1", (3.0, 1.0)
        "resnet32x4-ShuffleV2", (3.0, 1.0)
        "wrn_40_2-ShuffleV1", (2.0, 0.5)
        "ResNet50-MobileNetV2", (3.0, 2.0)
    ]

    /// resnet8 under teachers of these depths: KD and DTKD, read off a chart to 0.1.
    let dtkdDepths: (int * (float * float)) list = [
        14, (59.1, 62.9)
        20, (59.3, 61.9)
        32, (59.1, 62.3)
        44, (59.2, 61.7)
        56, (60.0, 62.6)
        110, (59.6, 62.0)
    ]

    /// Logit standardisation: T and weight of KD on standardised logits, as its logs are named; the numbers of KD, CTKD and
    /// DKD on standardised logits, and of CTKD without where CTKD itself has none.
    let standardised: (string * (float * float) * float list) list = [
        "resnet32x4-resnet8x4", (2.0, 9.0), [ 76.62; 76.67; 77.01; 73.39 ]
        "vgg13-vgg8", (3.0, 9.0), [ 74.36; 74.47; 74.81; __ ]
        "wrn_40_2-wrn_40_1", (2.0, 9.0), [ 74.37; 74.58; 74.89; __ ]
        "wrn_40_2-wrn_16_2", (2.0, 9.0), [ 76.11; 76.08; 76.39; __ ]
        "resnet56-resnet20", (2.0, 9.0), [ 71.43; 71.34; 72.32; __ ]
        "resnet110-resnet32", (2.0, 9.0), [ 74.17; 74.01; 74.29; __ ]
        "resnet110-resnet20", (2.0, 9.0), [ 71.48; 71.39; 71.85; __ ]
        "resnet32x4-ShuffleV2", (2.0, 9.0), [ 75.56; 76.18; 77.37; 75.37 ]
        "resnet32x4-wrn_16_2", (3.0, 9.0), [ 75.26; 75.16; 76.19; 74.57 ]
        "resnet32x4-wrn_40_2", (3.0, 9.0), [ 77.92; 77.99; 78.95; 77.66 ]
        "wrn_40_2-resnet8x4", (2.0, 9.0), [ 77.11; 77.03; 76.75; 74.61 ]
        "wrn_40_2-MobileNetV2", (3.0, 9.0), [ 69.23; 69.53; 70.01; 68.34 ]
        "vgg13-MobileNetV2", (3.0, 9.0), [ 68.61; 68.98; 69.98; 68.50 ]
        "ResNet50-MobileNetV2", (3.0, 1.0), [ 69.02; 69.36; 70.45; 68.67 ]
    ]
